from __future__ import annotations

import math
import warnings

from lad.assignment.gmm import COVARIANCE_TYPES, fit_two_gaussians

import numpy as np
import pytest
import torch
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

KINDS = ("gamma", "clusters", "few", "tiny", "large", "grid", "equal", "duplicates")
PRECISIONS = {
    "full": np.ones((2, 1, 1)),
    "diag": np.ones((2, 1)),
    "spherical": np.ones(2),
    "tied": np.ones((1, 1)),
}


def sample(rng: np.random.Generator, kind: str) -> np.ndarray:
    n = int(rng.integers(2, 46))
    if kind == "gamma":
        return rng.gamma(2, 1.0, n)
    if kind == "clusters":
        return np.concatenate((rng.normal(1, 0.1, int(rng.integers(1, 9))), rng.normal(4, 0.3, n)))
    if kind == "few":
        return rng.gamma(2, 1.0, int(rng.integers(2, 6)))
    if kind == "tiny":
        return rng.random(n) * 1e-8
    if kind == "large":
        return rng.random(n) * 1e3
    if kind == "grid":
        return rng.integers(0, 8, n) / 4
    if kind == "equal":
        return np.full(n, rng.gamma(2, 1.0))
    return np.repeat(rng.gamma(2, 1.0, n), 2)


def pack(groups: list[np.ndarray], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups in randomly chosen slots, with NaN in the invalid ones."""
    width = max(map(len, groups)) + int(rng.integers(0, 4))
    values = np.full((len(groups), width), np.nan)
    valid = np.zeros(values.shape, bool)
    for row, group in enumerate(groups):
        slots = np.sort(rng.permutation(width)[: len(group)])
        values[row, slots], valid[row, slots] = group, True
    return torch.from_numpy(values), torch.from_numpy(valid)


def scikit_learn(x: np.ndarray, covariance_type: str, **options: float) -> GaussianMixture:
    mixture = GaussianMixture(
        2,
        weights_init=[0.5, 0.5],
        means_init=[[x.min()], [x.max()]],
        precisions_init=PRECISIONS[covariance_type],
        covariance_type=covariance_type,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mixture.fit(x[:, None])


def check_against_scikit_learn(
    groups: list[np.ndarray], fit, valid: torch.Tensor, covariance_type: str, **options
):
    for row, x in enumerate(groups):
        mixture = scikit_learn(x, covariance_type, **options)
        variance = np.broadcast_to(mixture.covariances_.reshape(-1), 2)
        # Rounding of x^2 / variance in scikit-learn's formulas, the larger the tighter a cluster far from 0.
        rounding = 1e3 * np.finfo(float).eps * np.abs(x).max() ** 2 / variance.min()
        tolerance = 1e-9 + rounding
        density = mixture.score_samples(x[:, None])
        assert fit.iterations[row] == mixture.n_iter_
        np.testing.assert_allclose(fit.log_density[row][valid[row]], density, rtol=1e-9, atol=tolerance)
        np.testing.assert_allclose(fit.means[row], mixture.means_[:, 0], rtol=1e-9, atol=tolerance)
        np.testing.assert_allclose(fit.variances[row], variance, rtol=1e-9 + rounding)
        np.testing.assert_allclose(fit.weights[row], mixture.weights_, rtol=1e-9, atol=tolerance)
        joint = mixture._estimate_weighted_log_prob(x[:, None])
        clear = np.abs(joint[:, 0] - joint[:, 1]) > 100 * tolerance
        predicted = mixture.predict(x[:, None])
        assert (fit.assignment[row][valid[row]].numpy() == predicted)[clear].all()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), check_every=st.sampled_from((None, 0, 1, 3))
)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_equals_scikit_learn(covariance_type, seed, kind, check_every):
    rng = np.random.default_rng(seed)
    groups = [sample(rng, kind) for _ in range(12)]
    values, valid = pack(groups, rng)
    fit = fit_two_gaussians(values, valid, covariance_type, check_every=check_every)
    check_against_scikit_learn(groups, fit, valid, covariance_type)


@pytest.mark.parametrize("options", [{"max_iter": 1}, {"max_iter": 4}, {"tol": 1e-6}, {"reg_covar": 1e-2}])
def test_options_mean_what_they_mean_in_scikit_learn(options):
    rng = np.random.default_rng(0)
    groups = [sample(rng, "gamma") for _ in range(20)]
    values, valid = pack(groups, rng)
    fit = fit_two_gaussians(values, valid, check_every=3, **options)
    check_against_scikit_learn(groups, fit, valid, "diag", **options)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_looking_for_converged_groups_changes_nothing(covariance_type):
    rng = np.random.default_rng(1)
    values, valid = pack([sample(rng, kind) for kind in KINDS for _ in range(10)], rng)
    never = fit_two_gaussians(values, valid, covariance_type, check_every=0)
    for check_every in (None, 1, 2, 50, 1000):
        other = fit_two_gaussians(values, valid, covariance_type, check_every=check_every)
        assert torch.equal(other.iterations, never.iterations)
        for name in ("assignment", "log_density", "means", "variances", "weights"):
            torch.testing.assert_close(getattr(other, name), getattr(never, name), rtol=1e-12, atol=1e-12)


def test_two_clear_clusters_by_hand():
    # {1, 3} and {101, 105}: each component has half the weight; means 2 and 103, variances 1 and 4.
    fit = fit_two_gaussians(torch.tensor([[1.0, 3.0, 101.0, 105.0]]), torch.ones(1, 4, dtype=torch.bool))
    assert fit.assignment.tolist() == [[0, 0, 1, 1]]
    torch.testing.assert_close(fit.means, torch.tensor([[2.0, 103.0]], dtype=torch.float64))
    torch.testing.assert_close(fit.variances, torch.tensor([[1 + 1e-6, 4 + 1e-6]], dtype=torch.float64))
    torch.testing.assert_close(fit.weights, torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    # log(1/2) - log(2 pi variance) / 2 - 1/2: every value is one standard deviation from its mean.
    near, far = (math.log(0.5) - 0.5 * math.log(2 * math.pi * variance) - 0.5 for variance in (1, 4))
    expected = torch.tensor([[near, near, far, far]], dtype=torch.float64)
    torch.testing.assert_close(fit.log_density, expected, rtol=0, atol=1e-5)


def test_tied_clusters_by_hand_share_the_mean_variance():
    fit = fit_two_gaussians(
        torch.tensor([[1.0, 3.0, 101.0, 105.0]]), torch.ones(1, 4, dtype=torch.bool), "tied"
    )
    torch.testing.assert_close(fit.variances, torch.tensor([[2.5 + 1e-6] * 2], dtype=torch.float64))


def gives_up(x: np.ndarray) -> bool:
    """Whether scikit-learn refuses to fit."""
    try:
        scikit_learn(x, "diag")
    except ValueError as error:
        return "ill-defined empirical covariance" in str(error)
    return False


def test_where_scikit_learn_gives_up_the_answer_is_the_regularisation():
    # 4e5 squared times epsilon is far above 1e-6: E[x^2] - mean^2 comes out negative for some shifts. For which ones
    # depends on the order in which a processor's BLAS adds up.
    shifted = [np.array([400000.1] * 3 + [400007.3] * 7) + shift / 7 for shift in range(40)]
    found = [x for x in shifted if gives_up(x)]
    assert found
    for x in found:
        fit = fit_two_gaussians(torch.from_numpy(x)[None], torch.ones(1, 10, dtype=torch.bool))
        assert fit.assignment.tolist() == [[0] * 3 + [1] * 7]
        for name in ("log_density", "means", "variances", "weights"):
            assert getattr(fit, name).isfinite().all()
        floor = 1e-6 + fit.means**2 * 10 * torch.finfo(torch.float64).eps / (fit.weights * 10)
        torch.testing.assert_close(fit.variances, floor, rtol=1e-6, atol=0)
        full = fit_two_gaussians(torch.from_numpy(x)[None], torch.ones(1, 10, dtype=torch.bool), "full")
        torch.testing.assert_close(
            full.variances, torch.full((1, 2), 1e-6, dtype=torch.float64), rtol=1e-3, atol=0
        )


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_groups_of_none_and_one_have_defined_answers(covariance_type):
    values = torch.tensor([[math.nan, math.nan], [math.inf, 3.0]])
    valid = torch.tensor([[False, False], [False, True]])
    fit = fit_two_gaussians(values, valid, covariance_type)
    torch.testing.assert_close(fit.means, torch.tensor([[0.0, 0.0], [3.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(
        fit.variances, torch.full((2, 2), 1e-6, dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert fit.weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert fit.assignment.tolist() == [[0, 0], [0, 0]]
    assert fit.log_density.isneginf().tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("check_every", [None, 0])
def test_nothing_to_fit(shape, check_every):
    fit = fit_two_gaussians(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), check_every=check_every)
    assert fit.assignment.shape == fit.log_density.shape == shape
    assert fit.means.shape == fit.variances.shape == fit.weights.shape == (shape[0], 2)
    assert fit.iterations.shape == (shape[0],)


def test_no_iterations_answer_with_the_start():
    fit = fit_two_gaussians(torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3, dtype=torch.bool), max_iter=0)
    assert (fit.means.tolist(), fit.variances.tolist()) == ([[1.0, 4.0]], [[1.0, 1.0]])
    assert (fit.weights.tolist(), fit.iterations.tolist()) == ([[0.5, 0.5]], [0])
    assert fit.assignment.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_cast_up_first(dtype):
    values = torch.rand(20, 30, generator=torch.Generator().manual_seed(0)).mul(5).to(dtype)
    valid = torch.ones(20, 30, dtype=torch.bool)
    low, high = fit_two_gaussians(values, valid), fit_two_gaussians(values.double(), valid)
    assert torch.equal(low.log_density, high.log_density)
    assert low.log_density.dtype == low.means.dtype == torch.float64


def test_no_gradient_flows_and_inputs_are_left_alone():
    values = torch.rand(4, 9, requires_grad=True)
    before = values.detach().clone()
    fit = fit_two_gaussians(values, torch.ones(4, 9, dtype=torch.bool))
    assert not fit.log_density.requires_grad
    assert torch.equal(values, before)
    assert not fit.means.is_inference()
    (values * fit.log_density).sum().backward()  # usable in computations that have one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": torch.ones(2, 4, dtype=torch.bool)}, "shape"),
        ({"valid": torch.ones(2, 3)}, "boolean"),
        ({"covariance_type": "round"}, "covariance_type"),
        ({"max_iter": -1}, "negative"),
        ({"tol": -1.0}, "negative"),
        ({"check_every": -1}, "negative"),
        ({"reg_covar": 0.0}, "reg_covar"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"values": torch.ones(2, 3), "valid": torch.ones(2, 3, dtype=torch.bool), **changes}
    with pytest.raises(ValueError, match=message):
        fit_two_gaussians(**arguments)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("check_every", [0, None])
def test_never_waits_for_a_device(covariance_type, check_every):
    with fake_cuda(real_inputs=False):
        values = torch.empty(7, 45, device="cuda")
        valid = torch.empty(7, 45, device="cuda", dtype=torch.bool)
        fit = fit_two_gaussians(values, valid, covariance_type, check_every=check_every)
        assert fit.log_density.device.type == "cuda"
        assert fit.assignment.shape == (7, 45)


def test_the_fake_device_notices_waiting_and_mixing():
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    with fake_cuda(real_inputs=False):
        values = torch.empty(7, 45, device="cuda")
        valid = torch.empty(7, 45, device="cuda", dtype=torch.bool)
        with pytest.raises(GuardOnDataDependentSymNode):
            bool(values.sum().item() > 0)
        with pytest.raises(Exception, match="device"):
            values + torch.empty(7, 45)
        # Asked to look for converged groups, the fit must wait; the mode has to see it.
        with pytest.raises(GuardOnDataDependentSymNode):
            fit_two_gaussians(values, valid, check_every=1)
