"""Read and validate the YAML file of a suite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from lad.errors import ConfigError, nearest
from suites.suite import Claim, Entry, Need, Network, Statement, Suite, placeholders

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

#: Folder of the archived results, beside the suites' files.
ARCHIVES = "results"


def load_suite(path: str | Path) -> Suite:
    """Read a suite.

    Raises:
        ConfigError: the file is missing, unreadable or invalid; the message names the entry and the key.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(file) for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"there is no suite {str(path)!r}{nearest(str(path), known)}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe loader's subclass
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"suite {path} is not YAML: {' '.join(str(error).split())}.") from error
    try:
        file = SuiteFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_message(error, content)}.") from error
    suite = file.suite(path.parent / ARCHIVES / f"{file.name}.jsonl")
    _check_references(suite, str(path))
    return suite


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key twice, of which PyYAML keeps the last one silently."""

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        # Merge keys (`<<`) are resolved later: what is merged may be overridden.
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands in line {seen[key.value]} and again in line {line}"
                )
            seen[key.value] = line
        return node


# -- What the file may contain -----------------------------------------------------------------------------------------


def _flatten(options: Mapping[Any, Any]) -> dict[str, Any]:
    """Options by dotted key: nested mappings are flattened, a list is one value."""
    return dict(_items(options, ""))


def _items(options: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, dict) and value:
            yield from _items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _all_different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"must be different numbers, got {seeds}")
    return seeds


def _needed_seed(seed: Any) -> int | None:
    if seed == SAME:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"must be a whole number or {SAME!r}, got {seed!r}")
    return seed


#: As the seed of a need: that of the training that needs it.
SAME = "same"
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Title = Annotated[str, Field(coerce_numbers_to_str=True)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]  # NumPy takes no other
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_all_different)]
NeededSeed = Annotated[int | None, BeforeValidator(_needed_seed)]
Options = Annotated[dict[Any, Any], AfterValidator(_flatten)]


class _Section(BaseModel):
    """A mapping of known keys. A key without a value counts as left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return {} if content is None else content
        return {
            key: value for key, value in content.items() if value is not None or key not in cls.model_fields
        }


class NeedFile(_Section):
    """A training that must be finished first; ``seed: same`` is the one with the seed of the training that needs it."""

    entry: str
    seed: NeededSeed
    detect: Options | None = None

    def need(self) -> Need:
        """The need."""
        return Need(self.entry, self.seed, self.detect)


class NetworkFile(_Section):
    """One of an entry's networks."""

    title: Title | None = None
    baseline: str | None = None


class EntryFile(_Section):
    """A configuration to train."""

    config: str
    title: Title | None = None
    seeds: Seeds | None = None
    options: Options = {}
    needs: dict[str, NeedFile] = {}
    baseline: str | None = None
    networks: dict[str, NetworkFile] = {}
    evaluate_with: str | None = None
    evaluate: StrictBool = True

    @model_validator(mode="after")
    def _check_evaluation(self) -> EntryFile:
        if not self.evaluate and (
            self.networks or self.baseline is not None or self.evaluate_with is not None
        ):
            raise ValueError(
                "evaluate: false has no row of results; remove networks, baseline and evaluate_with"
            )
        return self

    @model_validator(mode="after")
    def _check_networks(self) -> EntryFile:
        if self.networks and (self.baseline is not None or self.evaluate_with is not None):
            raise ValueError(
                "its networks have baselines and configs of their own; remove baseline and evaluate_with"
            )
        return self

    @model_validator(mode="after")
    def _check_evaluated_model(self) -> EntryFile:
        for key, value in self.options.items() if self.evaluate_with else ():
            if key.split(".")[0] == "model" and not placeholders(value):
                raise ValueError(
                    f"options: {key} would not reach the detector that is evaluated; move it into the entry's "
                    "config and into that of evaluate_with"
                )
        return self

    def entry(self, name: str, seeds: Sequence[int]) -> Entry:
        """The entry, which has the suite's seeds unless it names its own."""
        title = self.title or name
        networks = [
            Network(f"{name}.{key}", key, own.title or f"{title}: {key}", own.baseline)
            for key, own in self.networks.items()
        ]
        return Entry(
            name=name,
            title=title,
            config=self.config,
            seeds=tuple(self.seeds or seeds),
            networks=tuple(networks or [Network(name, "", title, self.baseline)] if self.evaluate else ()),
            options=self.options,
            needs={key: need.need() for key, need in self.needs.items()},
            evaluate_with=self.evaluate_with,
        )


class StatementFile(_Section):
    """One comparison of a claim."""

    better: str
    than: str
    decides: StrictBool = True


class ClaimFile(_Section):
    """A hypothesis: one comparison, or a list of them."""

    text: str
    better: str | None = None
    than: str | None = None
    statements: list[StatementFile] | None = None

    @model_validator(mode="after")
    def _check_statements(self) -> ClaimFile:
        single = [self.better, self.than]
        if None in single if self.statements is None else single != [None, None] or not self.statements:
            raise ValueError("needs either better and than, or a list of statements")
        if self.statements and not any(statement.decides for statement in self.statements):
            raise ValueError("needs a statement that decides")
        return self

    def claim(self) -> Claim:
        """The claim."""
        if self.statements is None:
            return Claim(self.text, (Statement(self.better, self.than),))
        return Claim(self.text, tuple(Statement(**dict(statement)) for statement in self.statements))


class SuiteFile(_Section):
    """The whole file."""

    name: Name
    title: Title | None = None
    seeds: Seeds
    options: Options = {}
    schedule: Options = {}
    entries: Annotated[dict[Name, EntryFile], Field(min_length=1)]
    claims: list[ClaimFile] = []

    def suite(self, archive: Path) -> Suite:
        """The suite, whose references are not checked yet, and whose archived results are in a file."""
        return Suite(
            name=self.name,
            title=self.title or self.name,
            entries={name: own.entry(name, self.seeds) for name, own in self.entries.items()},
            options=self.options,
            schedule=self.schedule,
            claims=tuple(claim.claim() for claim in self.claims),
            archive=archive,
        )


# -- Mistakes as one line ----------------------------------------------------------------------------------------------

#: What a value has to be, by pydantic's type of error.
_EXPECTED = {
    "greater_than_equal": "a whole number from 0 on",
    "less_than": "a whole number below 2^32",
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "too_short": "non-empty",
    "string_pattern_mismatch": "a name of small letters, digits, '_' and '-'",
}


def _message(error: ValidationError, content: Any) -> str:
    """The first mistake, as one line without a full stop."""
    # An unknown key explains the missing one that it was meant to be.
    mistakes = sorted(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    return _line(mistakes[0], content)


def _line(mistake: ErrorDetails, content: Any) -> str:
    kind, (*where, key) = mistake["type"], mistake["loc"] or ("the file",)
    if kind == "extra_forbidden":
        known = list(_section_at(where).model_fields)
        close = nearest(str(key), known) or f"; known: {', '.join(known)}"
        return f"{_place(where, content)}unknown key {key!r}{close}"
    if kind == "missing":
        return f"{_place(where, content)}{key!r} is missing"
    if key == "[key]":
        # The name of an entry: the mistake is in the mapping's key.
        return f"{_place(where[:-1], content)}entry names must be {_EXPECTED[kind]}, got {mistake['input']!r}"
    place = _place([*where, key], content).removesuffix(": ")
    if kind == "value_error":
        reason = str(mistake["ctx"]["error"])
        return f"{place} {reason}" if reason.startswith(("must", "needs")) else f"{place}: {reason}"
    value = mistake["input"]
    got = f"a {type(value).__name__}" if isinstance(value, (dict, list)) and value else repr(value)
    expected = _EXPECTED.get(kind)
    return f"{place} must be {expected}, got {got}" if expected else f"{place}: {mistake['msg']}"


def _place(where: Sequence[str | int], content: Any) -> str:
    """``"entry 'lad': needs.teacher: "``; empty for the file itself."""
    parts, where = [], list(where)
    if where[:1] == ["entries"] and len(where) > 1:
        parts, where = [f"entry {where[1]!r}"], where[2:]
    elif where[:1] == ["claims"] and len(where) > 1:
        claim = content["claims"][where[1]]
        text = claim.get("text") if isinstance(claim, dict) else None
        parts, where = [f"claims[{where[1]}]" if text is None else f"claim {text!r}"], where[2:]
    if where:
        keys = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in where]
        parts.append("".join(keys).removeprefix("."))
    return "".join(f"{part}: " for part in parts)


def _section_at(where: Sequence[str | int]) -> type[_Section]:
    """The model of the mapping at a place in the file."""
    section, is_inside_container = SuiteFile, False
    for key in where:
        if is_inside_container:  # the key of a mapping by name, or the index of a list
            is_inside_container = False
            continue
        annotation = section.model_fields[str(key)].annotation
        section = next(_sections(annotation))
        is_inside_container = annotation is not section
    return section


def _sections(annotation: Any) -> Iterator[type[_Section]]:
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, _Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


# -- References between entries ----------------------------------------------------------------------------------------


def _check_references(suite: Suite, where: str) -> None:
    """Refuse names of entries, rows and seeds that the suite does not have."""
    rows = suite.networks
    for entry in suite.entries.values():
        own = f"{where}: entry {entry.name!r}"
        for network in entry.networks:
            if network.baseline is not None:
                _check_known(network.baseline, rows, f"{own}: baseline")
                if network.baseline == network.row:
                    raise ConfigError(f"{own}: its baseline is itself; name another, or leave it out.")
        for key, need in entry.needs.items():
            _check_known(need.entry, suite.entries, f"{own}: needs.{key}")
            needed = suite.entries[need.entry]
            for seed in entry.seeds if need.seed is None else [need.seed]:
                if seed not in needed.seeds:
                    seeds = ", ".join(map(str, needed.seeds))
                    raise ConfigError(
                        f"{own}: needs.{key}: {need.entry!r} has no seed {seed}; it has {seeds}."
                    )
            if needed.networks and needed.networks[0].name:
                raise ConfigError(
                    f"{own}: needs.{key}: {need.entry!r} trains several networks; name an entry of one."
                )
            if need.detect is not None and (needed.evaluate_with or not needed.networks):
                raise ConfigError(
                    f"{own}: needs.{key}: detect wants an entry whose own config is evaluated, and {need.entry!r} "
                    f"{'has evaluate_with' if needed.evaluate_with else 'is not evaluated'}."
                )
        for wanted in sorted(placeholders(entry.options)):
            _check_known(wanted, entry.needs, f"{own}: options: {{{wanted}}} is not among its needs")
    if wanted := placeholders([suite.options, suite.schedule]):
        raise ConfigError(
            f"{where}: options: {{{min(wanted)}}} stands for what an entry needs; write it into the entry's options."
        )
    _check_order(suite, where)
    for entry in suite.entries.values():
        for key in entry.needs.keys() - placeholders(entry.options):
            raise ConfigError(
                f"{where}: entry {entry.name!r}: needs.{key}: no option uses it: write '{{{key}}}' where its "
                "checkpoint is to stand."
            )
    for claim in suite.claims:
        for statement in claim.statements:
            for row in (statement.better, statement.than):
                _check_known(row, rows, f"{where}: claim {claim.text!r}")
            if statement.better == statement.than:
                raise ConfigError(
                    f"{where}: claim {claim.text!r}: {statement.better!r} is compared with itself; name two rows."
                )


def _check_order(suite: Suite, where: str) -> None:
    """Refuse trainings that need each other in a circle."""
    done: set[str] = set()
    waiting = dict(suite.entries)
    while waiting:
        ready = [name for name, entry in waiting.items() if {n.entry for n in entry.needs.values()} <= done]
        if not ready:
            raise ConfigError(
                f"{where}: entries {', '.join(sorted(waiting))} need each other; remove one of the needs."
            )
        done.update(ready)
        for name in ready:
            del waiting[name]


def _check_known(name: str, known: Iterable[str], where: str) -> None:
    known = list(known)
    if name not in known:
        close = nearest(name, known) or f"; known: {', '.join(known) or 'none'}"
        raise ConfigError(f"{where}: there is no {name!r}{close}.")
