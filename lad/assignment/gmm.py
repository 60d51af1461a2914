"""Batched fit of two-component Gaussian mixtures to many small one-dimensional samples.

Probabilistic anchor assignment fits one mixture per ground-truth box. Fitting them one by one on the host
costs milliseconds per box and a device synchronisation each; here every box of a batch is a row of one
tensor, and expectation-maximisation runs over all rows together on the device of the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

COVARIANCE_TYPES = ("full", "diag", "spherical", "tied")

# Iterations between two checks of which groups have converged. A check costs more small operations than an
# iteration does, so it covers several at once; their parameters are all kept until then, which bounds the number.
_WINDOW = 8
# Converged groups are dropped from the working tensors once they are at least this share of them; below it,
# copying the others costs more than the arithmetic saved.
_DROP_SHARE = 0.2
# scikit-learn adds ten machine epsilons to the mass of each component, so that an empty one does not divide by zero.
_MASS_FLOOR = 10 * torch.finfo(torch.float64).eps
# How far apart the joint densities of a candidate equally probable in both components may come out, relative
# to 1 + their magnitude. The last digit of a logarithm depends on where its argument stands in a vector
# register: without a tolerance the component of equal candidates would depend on their positions.
_ROUNDING = 8 * torch.finfo(torch.float64).eps
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class TwoGaussians:
    """G fitted mixtures of two Gaussians, each evaluated at its own M candidates.

    Attributes:
        assignment: (G, M) long. The component (0 or 1) each candidate most probably comes from, 0 if both are
            equally probable up to rounding. Component 0 started at the group's minimum. 0 in invalid slots.
        log_density: (G, M) float64. Natural logarithm of the mixture's density at each candidate
            (scikit-learn's ``score_samples``). ``-inf`` in invalid slots.
        means: (G, 2) float64, in the unit of the values.
        variances: (G, 2) float64, in that unit squared; both columns equal if tied. Never below ``reg_covar``
            (1.0, the starting value, if ``max_iter`` is 0).
        weights: (G, 2) float64, each row sums to 1.
        iterations: (G,) long. Iterations made until the group converged, at most ``max_iter``.
    """

    assignment: Tensor
    log_density: Tensor
    means: Tensor
    variances: Tensor
    weights: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class _Groups:
    """State of expectation-maximisation for the groups that are still iterated.

    Parameters are (2, G, 3): for each component and group its mean, variance and mass. A component's mass is
    its weight times the number of values; used in place of the weight it adds a constant to a group's
    log-likelihood, which changes neither the responsibilities nor the convergence test.

    Attributes:
        x: (G, M) values, something finite in invalid slots.
        present: (G, M) 1.0 in valid slots, 0.0 in others.
        least_change: (G, 1) a group goes on while its log-likelihood changes by this or more.
        active: (G, 1) bool, false for a converged group that has not been dropped yet.
        previous: (G, 1) log-likelihood of the last iteration.
        squared: (2, G, M) squared distances to the current means.
        current: Parameters after the last iteration, whether converged or not.
        kept: Parameters with which a group converged; of an active one, those after the last iteration.
        iterations: (G, 1) long, as for `kept`.
    """

    x: Tensor
    present: Tensor
    least_change: Tensor
    active: Tensor
    previous: Tensor
    squared: Tensor
    current: Tensor
    kept: Tensor
    iterations: Tensor

    def rows(self, index: Tensor) -> _Groups:
        """Select groups by their index."""
        group_first = (self.x, self.present, self.least_change, self.active, self.previous)
        group_second = (self.squared, self.current, self.kept)
        selected = [t.index_select(0, index) for t in group_first]
        selected += [t.index_select(1, index) for t in group_second]
        selected.append(self.iterations.index_select(0, index))
        return _Groups(*selected)


def _log_height(variance: Tensor, mass: Tensor) -> Tensor:
    """Logarithm of mass times the density at the mean, up to a constant: both (2, G, 1)."""
    return variance.rsqrt().mul_(mass).log_()


def _variances(
    scatter: Tensor, mass: Tensor, mean: Tensor, covariance_type: str, reg_covar: Tensor
) -> Tensor:
    """Variances (2, G, 1) of the M step from the scatter around the new means, both (2, G, 1).

    scikit-learn takes E[x^2] - mean^2 for every type but 'full', and divides by a mass that is `_MASS_FLOOR`
    too large; in exact arithmetic that is the centred variance plus mean^2 * floor / mass. The centred form
    is used here since it cannot cancel: the result is never below `reg_covar`.
    """
    if covariance_type == "full":
        return torch.addcdiv(reg_covar, scatter, mass)
    scatter = torch.addcmul(scatter, mean, mean, value=_MASS_FLOOR)
    if covariance_type == "tied":
        tied = torch.addcdiv(reg_covar, scatter.sum(0, keepdim=True), mass.sum(0, keepdim=True))
        return tied.expand_as(mass)
    return torch.addcdiv(reg_covar, scatter, mass)


def _iterate(groups: _Groups, count: int, covariance_type: str, regularisation: Tensor) -> _Groups:
    """Make `count` iterations, then determine which groups converged in which of them.

    All groups make all iterations; the parameters of a converged one are taken from the recorded history.
    """
    x, present, squared = groups.x, groups.present, groups.squared
    mean, variance, mass = groups.current.split(1, 2)
    joints, shares = x.new_empty(2, count, 2, *x.shape).unbind(0)
    history: list[Tensor] = []
    for joint, share in zip(joints.unbind(0), shares.unbind(0), strict=True):
        # E step.
        torch.addcmul(_log_height(variance, mass), squared, variance.reciprocal(), value=-0.5, out=joint)
        torch.softmax(joint, 0, out=share).mul_(present)
        # M step.
        mass = share.sum(2, keepdim=True).add_(_MASS_FLOOR)
        mean = torch.mul(share, x).sum(2, keepdim=True).div_(mass)
        squared = (x - mean).square_()
        scatter = torch.mul(share, squared).sum(2, keepdim=True)
        variance = _variances(scatter, mass, mean, covariance_type, regularisation)
        history += (mean, variance, mass)

    # log(exp(a) + exp(b)) is the larger exponent minus the logarithm of the larger share; where there is no
    # value both shares are 0, so 1 is added to keep the logarithm finite.
    log_share = shares.amax(1).add_(1 - present).log_()
    bounds = joints.amax(1).sub_(log_share).mul_(present).sum(2).T
    changes = torch.cat((groups.previous, bounds), 1).diff(dim=1).abs_()
    still = changes >= groups.least_change
    going = still.all(1, keepdim=True)
    # The first iteration whose change was too small: argmin returns the first of several.
    last = torch.where(going, count - 1, still.long().argmin(1, keepdim=True))
    steps = torch.cat(history, 2).unflatten(2, (count, 3))
    reached = steps.gather(2, last[:, :, None].expand(2, -1, 1, 3)).squeeze(2)
    return _Groups(
        x=x,
        present=present,
        least_change=groups.least_change,
        active=groups.active & going,
        previous=bounds[:, -1:],
        squared=squared,
        current=steps[:, :, -1],
        kept=torch.where(groups.active, reached, groups.kept),
        iterations=groups.iterations + (last + 1) * groups.active,
    )


def _check_arguments(
    values: Tensor,
    valid: Tensor,
    covariance_type: str,
    max_iter: int,
    tol: float,
    reg_covar: float,
    check_every: int | None,
) -> None:
    if values.dim() != 2 or values.shape != valid.shape:
        raise ValueError(
            f"values and valid must share one (G, M) shape, got {values.shape} and {valid.shape}"
        )
    if valid.dtype != torch.bool:
        raise ValueError(f"valid must be boolean, got {valid.dtype}")
    if covariance_type not in COVARIANCE_TYPES:
        raise ValueError(f"covariance_type must be one of {COVARIANCE_TYPES}, got {covariance_type!r}")
    if max_iter < 0 or tol < 0 or (check_every is not None and check_every < 0):
        raise ValueError("max_iter, tol and check_every must not be negative")
    if reg_covar <= 0:
        raise ValueError(f"reg_covar must be positive, got {reg_covar}")


def _initial_groups(values: Tensor, valid: Tensor, tol: float) -> _Groups:
    """All groups before the first iteration: means at the extremes, variances 1, equal masses; M must not be 0."""
    x = values.double()
    lowest = x.masked_fill(~valid, math.inf).amin(1, keepdim=True)
    highest = x.masked_fill(~valid, -math.inf).amax(1, keepdim=True)
    count = valid.sum(1, keepdim=True)
    mean = torch.stack((lowest, highest)).masked_fill(count == 0, 0.0)
    # Invalid slots enter the arithmetic with weight 0, so they need a finite value.
    x = torch.where(valid, x, mean[0])
    mass = (0.5 * count.clamp(min=1)).to(x.dtype).expand_as(mean)
    parameters = torch.cat((mean, torch.ones_like(mean), mass), 2)
    return _Groups(
        x=x,
        present=valid.to(x.dtype),
        least_change=count.clamp(min=1) * tol,  # scikit-learn compares means, these are sums
        active=torch.ones_like(valid[:, :1]),
        previous=torch.full_like(x[:, :1], -math.inf),
        squared=(x - mean).square_(),
        current=parameters,
        kept=parameters,
        iterations=torch.zeros_like(count),
    )


def _maximise(
    groups: _Groups, covariance_type: str, max_iter: int, reg_covar: float, check_every: int
) -> tuple[Tensor, Tensor]:
    """Run expectation-maximisation until every group converged or `max_iter` iterations were made.

    Converged groups are dropped from the working tensors at every check, if they are enough to be worth the copy.

    Returns:
        Parameters (2, G, 3) and iterations (G, 1) of all groups, as in `_Groups`.
    """
    parameters, iterations = groups.kept, groups.iterations
    regularisation = groups.x.new_full((), reg_covar)
    rows: Tensor | None = None  # which groups `groups` holds; None is all of them
    done, next_check = 0, check_every
    while done < max_iter:
        window = min(_WINDOW, check_every or _WINDOW, max_iter - done)
        groups = _iterate(groups, window, covariance_type, regularisation)
        done += window
        if rows is None:
            parameters, iterations = groups.kept, groups.iterations
        else:
            parameters[:, rows], iterations[rows] = groups.kept, groups.iterations
        if not check_every or done < next_check or done == max_iter:
            continue
        next_check = done + check_every
        going = groups.active[:, 0].nonzero()[:, 0]
        if not len(going):
            break
        if len(going) <= (1 - _DROP_SHARE) * len(groups.x):
            rows = going if rows is None else rows[going]
            groups = groups.rows(going)
    return parameters, iterations


def _evaluate(x: Tensor, valid: Tensor, parameters: Tensor, iterations: Tensor) -> TwoGaussians:
    """Mixtures with given parameters (2, G, 3), evaluated at the values x (G, M)."""
    mean, variance, mass = parameters.split(1, 2)
    weight = mass / mass.sum(0, keepdim=True)
    joint = torch.addcdiv(_log_height(variance, weight), (x - mean).square_(), variance, value=-0.5)
    assignment = (joint[1] - joint[0] > _ROUNDING * (1 + joint[0].abs())) & valid
    log_density = torch.logaddexp(joint[0], joint[1]).sub_(_HALF_LOG_2PI).masked_fill_(~valid, -math.inf)
    return TwoGaussians(
        assignment=assignment.long(),
        log_density=log_density,
        means=mean[:, :, 0].T,
        variances=variance[:, :, 0].T,
        weights=weight[:, :, 0].T,
        iterations=iterations[:, 0],
    )


def _fit(
    values: Tensor,
    valid: Tensor,
    covariance_type: str,
    max_iter: int,
    tol: float,
    reg_covar: float,
    check_every: int,
) -> TwoGaussians:
    """`fit_two_gaussians` with arguments checked and defaults filled in."""
    num_slots = values.shape[1]
    if num_slots == 0:  # a minimum over no slots is undefined
        values, valid = values.new_zeros(values.shape[0], 1), valid.new_zeros(valid.shape[0], 1)
    groups = _initial_groups(values, valid, tol)
    parameters, iterations = _maximise(groups, covariance_type, max_iter, reg_covar, check_every)
    fitted = _evaluate(groups.x, valid, parameters, iterations)
    return replace(
        fitted, assignment=fitted.assignment[:, :num_slots], log_density=fitted.log_density[:, :num_slots]
    )


def fit_two_gaussians(
    values: Tensor,
    valid: Tensor,
    covariance_type: str = "diag",
    max_iter: int = 100,
    tol: float = 1e-3,
    reg_covar: float = 1e-6,
    check_every: int | None = None,
) -> TwoGaussians:
    """Fit one two-component mixture to each row's valid values by expectation-maximisation, in float64.

    Row by row this is ``sklearn.mixture.GaussianMixture(2, covariance_type, tol, reg_covar, max_iter)`` as
    probabilistic anchor assignment starts it (Kim & Lee, "Probabilistic Anchor Assignment with IoU Prediction
    for Object Detection", ECCV 2020, arXiv 2007.08103; MMDetection's ``PAAHead``): means at the row's minimum
    and maximum, weights 1/2, precisions 1. A row stops after the M step of the first iteration whose mean
    log-likelihood differs from the previous one's by less than `tol`, and keeps those parameters while the
    others go on.

    Where the two differ:

    * The variance is computed around the mean, not as E[x^2] - mean^2, so it is never below `reg_covar`
      and every result is finite. Where scikit-learn raises "ill-defined empirical covariance" (MMDetection
      issue 9390: equal or nearly equal values whose square times the machine epsilon exceeds `reg_covar`) the
      variance here is the true one, about `reg_covar`, plus mean^2 * 10 epsilon / mass, as scikit-learn's
      formula has it in exact arithmetic.
    * The last digits: scikit-learn's rounding error in a log-density grows as x^2 * epsilon / variance.

    A row with one valid value gets two equal components there; a row with none gets means 0, variances
    `reg_covar` and weights 1/2.

    Args:
        values: (G, M) of any float dtype. Valid values must be finite and below 1e150 in magnitude; those in
            invalid slots are ignored.
        valid: (G, M) bool, which slots hold a value; in any arrangement.
        covariance_type: 'full', 'diag', 'spherical' (all the same in one dimension, apart from rounding) or
            'tied' (one variance for both components).
        max_iter: Most iterations made; 0 returns the starting parameters.
        tol: Convergence threshold on the mean log-likelihood per value.
        reg_covar: Added to each variance, in the unit of the values squared; positive.
        check_every: Check for converged rows every so many iterations or a few more, to drop them and to
            stop early; 0 is never. A check waits for the device. None: every few iterations on a CPU, else
            never. The result does not depend on it.

    Returns:
        The mixtures, on the device of `values`.

    Raises:
        ValueError: if the shapes differ, `valid` is not boolean, `covariance_type` is unknown or a number is
            out of its range.
    """
    _check_arguments(values, valid, covariance_type, max_iter, tol, reg_covar, check_every)
    if check_every is None:
        check_every = _WINDOW if values.device.type == "cpu" else 0
    # Recording for autograd takes a tenth of the time. Clones are ordinary tensors again, which later
    # computations with gradients may use.
    with torch.inference_mode():
        fitted = _fit(values, valid, covariance_type, max_iter, tol, reg_covar, check_every)
    return TwoGaussians(**{field.name: getattr(fitted, field.name).clone() for field in fields(fitted)})
