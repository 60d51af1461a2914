"""How many training seeds it takes to see a difference of a given size."""

from __future__ import annotations

from scipy.special import ndtri, stdtrit

#: Numbers of seeds beyond this one are not searched.
MOST = 1000


def seeds_needed(
    difference: float, seed_deviation: float, image_deviation: float, power: float = 0.8
) -> int | None:
    """Number of paired seeds with which a difference of a given size is found.

    The mean difference :math:`D_n` of n pairs has the variance :math:`b^2 + s^2 / n`, with s the deviation over seeds
    and b that over validation images, which more seeds do not reduce. Its 95 % interval has the half width
    :math:`h_n = \\sqrt{(z_{0.975}\\, b)^2 + (t_{n-1,\\,0.975}\\, s)^2 / n}`, and is above 0 with a probability of at
    least ``power`` where the true difference is :math:`h_n + z_{power} \\sqrt{b^2 + s^2 / n}` or more.

    Both deviations are estimates; of few seeds, rough ones: take the result as "about n".

    Args:
        difference: True difference, in the deviations' unit; positive.
        seed_deviation: Standard deviation of the difference over seeds.
        image_deviation: Standard deviation of the mean difference over resampled images.
        power: Probability with which the interval is to exclude 0.

    Returns:
        The smallest such number, from 2 on; None where no number of up to 1,000 seeds suffices: the images are too few.

    Example:
        >>> seeds_needed(0.02, seed_deviation=0.01, image_deviation=0.003)
        5
    """
    if difference <= 0:
        raise ValueError(f"difference must be positive, got {difference}.")
    return next(
        (
            seeds
            for seeds in range(2, MOST + 1)
            if _detectable(seeds, seed_deviation, image_deviation, power) <= difference
        ),
        None,
    )


def half_width(seeds: int, seed_deviation: float, image_deviation: float) -> float:
    """Half width of the 95 % interval of a mean difference of so many pairs, at least two."""
    student = stdtrit(seeds - 1, 0.975)
    return float(((ndtri(0.975) * image_deviation) ** 2 + (student * seed_deviation) ** 2 / seeds) ** 0.5)


def _detectable(seeds: int, seed_deviation: float, image_deviation: float, power: float) -> float:
    deviation = (image_deviation**2 + seed_deviation**2 / seeds) ** 0.5
    return half_width(seeds, seed_deviation, image_deviation) + float(ndtri(power)) * deviation
