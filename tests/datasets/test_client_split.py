"""A COCO file split among clients: nothing is lost or doubled but what a client does not annotate."""

import json

from lad.datasets.client_split import NEEDS, split_by_classes, split_by_dirichlet, split_by_folder
from lad.datasets.coco_needs import read_needed
from lad.errors import DataError

import pytest
from hypothesis import given
from hypothesis import strategies as st


def content(images=12, folders=("a", "b")):
    return dict(
        info=dict(year=1),
        images=[
            dict(
                id=10 + number, file_name=f"{folders[number % len(folders)]}/{number}.jpg", width=8, height=8
            )
            for number in range(images)
        ],
        annotations=[
            dict(id=number, image_id=10 + number // 2, category_id=1 + number % 3, bbox=[0, 0, 2, 2])
            for number in range(2 * images - 4)  # two images have none
        ],
        categories=[dict(id=1, name="cat"), dict(id=2, name="dog"), dict(id=3, name="cow")],
    )


def all_ids(parts, key="images"):
    return sorted(entry for part in parts.values() for entry in ids(part, key))


def ids(part, key="images"):
    return [entry["id"] for entry in part[key]]


def test_each_client_has_its_images_and_the_annotations_of_its_classes():
    whole = content()
    parts = split_by_classes(whole, dict(x=["cat"], y=["dog", "cow"]), seed=0)
    assert sorted(ids(parts["x"]) + ids(parts["y"])) == ids(whole)
    assert len(ids(parts["x"])) == 6
    for name, own in dict(x={1}, y={2, 3}).items():
        part = parts[name]
        expected = [
            one["id"]
            for one in whole["annotations"]
            if one["image_id"] in ids(part) and one["category_id"] in own
        ]
        assert ids(part, "annotations") == expected
        assert part["categories"] == whole["categories"]
        assert part["info"] == whole["info"]


@given(st.integers(0, 99), st.sampled_from([0.05, 0.5, 100.0]), st.integers(1, 6))
def test_dirichlet_gives_each_image_to_one_client(seed, alpha, count):
    whole, names = content(), [f"c{number}" for number in range(count)]
    parts = split_by_dirichlet(whole, names, alpha, seed)
    assert list(parts) == names
    assert all_ids(parts) == ids(whole)
    assert all_ids(parts, "annotations") == ids(whole, "annotations")
    assert all(ids(part) for part in parts.values())
    again = split_by_dirichlet(whole, names, alpha, seed)
    assert again == parts


def test_small_alpha_separates_classes_and_a_large_one_mixes_them():
    whole = content(240)

    def largest_share(alpha):
        parts = split_by_dirichlet(whole, ["a", "b"], alpha, seed=1).values()
        counts = [sum(one["category_id"] == 1 for one in part["annotations"]) for part in parts]
        return max(counts) / sum(counts)

    assert largest_share(1000.0) < 0.6


def test_folders_are_clients():
    parts = split_by_folder(content())
    assert {
        name: {image["file_name"][0] for image in part["images"]} for name, part in parts.items()
    } == dict(a={"a"}, b={"b"})
    assert all_ids(parts, "annotations") == ids(content(), "annotations")


def test_what_cannot_be_split_is_refused():
    with pytest.raises(DataError, match=r"client x: there is no class 'cats'.*cat"):
        split_by_classes(content(), dict(x=["cats"]), 0)
    with pytest.raises(DataError, match="2 images cannot be split among 3 clients"):
        split_by_dirichlet(content(2), ["a", "b", "c"], 1.0, 0)
    with pytest.raises(DataError, match="alpha must be above 0"):
        split_by_dirichlet(content(), ["a"], 0.0, 0)
    for alpha in (float("inf"), float("nan"), -1.0):
        with pytest.raises(DataError, match="alpha must be above 0 and finite, got"):
            split_by_dirichlet(content(), ["a"], alpha, 0)
    with pytest.raises(DataError, match="all images are in the folder 'a'"):
        split_by_folder(content(folders=("a",)))
    flat = content()
    flat["images"][3]["file_name"] = "3.jpg"
    with pytest.raises(DataError, match=r"'3\.jpg' is in no folder"):
        split_by_folder(flat)
    del flat["images"][3]["file_name"]
    with pytest.raises(DataError, match="image 13 has no file_name"):
        split_by_folder(flat)


@pytest.mark.parametrize(
    ("kind", "key", "place"),
    [
        ("images", "id", "entry 2"),
        ("annotations", "image_id", r"entry 2 \(id 2\)"),
        ("annotations", "category_id", r"entry 2 \(id 2\)"),
        ("categories", "id", "entry 2"),
        ("categories", "name", r"entry 2 \(id 3\)"),
    ],
)
def test_entries_that_belong_nowhere_are_refused_in_one_line(kind, key, place, tmp_path):
    broken, file = content(), tmp_path / "mine.json"
    file.write_text(json.dumps(broken))
    assert read_needed(file, NEEDS) == broken
    del broken[kind][2][key]
    file.write_text(json.dumps(broken))
    says = (
        rf"mine\.json: 1 of {len(broken[kind])} {kind} have no {key} that is a number or a text; the first is"
    )
    with pytest.raises(DataError, match=rf"{says} {place}, which has none: mend it") as error:
        read_needed(file, NEEDS)
    assert "\n" not in str(error.value)
