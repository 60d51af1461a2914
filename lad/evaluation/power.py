"""How many training seeds it takes to see a difference of a given size."""

from __future__ import annotations

from scipy.special import ndtri, stdtrit

#: Numbers of seeds beyond this one are not searched.
MOST = 1000


def seeds_needed(
    difference: float,
    seed_deviation: float,
    image_deviation: float,
    image_seed_deviation: float = 0.0,
    power: float = 0.8,
) -> int | None:
    """Number of paired seeds with which a difference of a given size is found.

    The mean difference :math:`D_n` of n pairs has the variance :math:`b^2 + s^2 / n`, with s the deviation over seeds
    and b what all seeds have in common of that over validation images, which more seeds do not reduce. Its 95 %
    interval has the half width :math:`h_n = \\sqrt{z_{0.975}^2 (b^2 + c^2 / n) + (t_{n-1,\\,0.975}\\, s)^2 / n}`,
    with c the deviation over images that each seed has for itself. It is above 0 with a probability of about ``power``
    where the true difference is :math:`h_n + z_{power} \\sqrt{b^2 + s^2 / n}` (of two or three pairs with a somewhat
    smaller one, as their scatter itself is known roughly).

    The deviations are estimates; of few seeds, rough ones: take the result as "about n".

    Args:
        difference: True difference, in the deviations' unit; positive.
        seed_deviation: Standard deviation of the difference over seeds.
        image_deviation: Standard deviation of the difference over resampled images, as far as all seeds share it.
        image_seed_deviation: As far as each seed has its own.
        power: Probability with which the interval is to exclude 0.

    Returns:
        The smallest such number, from 2 on; None where no number of up to 1,000 seeds suffices: the images are too few.

    Example:
        >>> seeds_needed(0.02, seed_deviation=0.01, image_deviation=0.003)
        5
    """
    if difference <= 0:
        raise ValueError(f"difference must be positive, got {difference}.")
    deviations = seed_deviation, image_deviation, image_seed_deviation
    return next(
        (seeds for seeds in range(2, MOST + 1) if _detectable(seeds, *deviations, power) <= difference), None
    )


def half_width(
    seeds: int, seed_deviation: float, image_deviation: float, image_seed_deviation: float = 0.0
) -> float:
    """Half width of the 95 % interval of a mean difference of so many pairs, at least two."""
    images = ndtri(0.975) ** 2 * (image_deviation**2 + image_seed_deviation**2 / seeds)
    return float((images + (stdtrit(seeds - 1, 0.975) * seed_deviation) ** 2 / seeds) ** 0.5)


def _detectable(
    seeds: int, seed_deviation: float, image_deviation: float, image_seed_deviation: float, power: float
) -> float:
    # What image and seed have together is in the seeds' deviation.
    deviation = (image_deviation**2 + seed_deviation**2 / seeds) ** 0.5
    width = half_width(seeds, seed_deviation, image_deviation, image_seed_deviation)
    return width + float(ndtri(power)) * deviation
