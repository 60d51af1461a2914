"""Which predictors of several networks learn from which in mutual learning."""

from __future__ import annotations

from collections.abc import Iterable

from lad.errors import ConfigError


def mutual_pairs(predictors: Iterable[str]) -> dict[tuple[str, str], str]:
    """Ordered pairs of predictors of different networks, and the name of each pair's loss term.

    The loss of mutual learning is  sum_i L_i + sum over these pairs (i, j) of KL(p_j || p_i),  where L_i is the own
    loss of predictor i and p_j, which teaches, is constant. With the main heads of two networks it is that of Zhang et
    al., "Deep Mutual Learning", CVPR 2018, arXiv 1706.00384 (of K networks they take the mean over each one's K - 1
    peers). With auxiliary classifiers too it is dense cross-layer mutual-distillation (DCM), Yao and Sun, "Knowledge
    Transfer via Dense Cross-layer Mutual-distillation", ECCV 2020, arXiv 2008.07816. Predictors of one network do not
    learn from each other.

    Args:
        predictors: ``'a'`` for the main head of network a, ``'a.early'`` for its exit.

    Returns:
        ``'LEARNER.TEACHER'`` by (learner, teacher): ``'a.early.b'`` is the exit of a that learns from b.

    Raises:
        ConfigError: an exit is called like a network, so that ``'a.b.c'`` could be read in two ways.

    Example:
        >>> from lad.methods.together.pairs import mutual_pairs
        >>> mutual_pairs(["a", "a.early", "b"])
        {('a', 'b'): 'a.b', ('a.early', 'b'): 'a.early.b', ('b', 'a'): 'b.a', ('b', 'a.early'): 'b.a.early'}
    """
    predictors = list(predictors)
    networks = [name.partition(".")[0] for name in predictors]
    for name in predictors:
        exit_name = name.partition(".")[2]
        if exit_name in networks:
            raise ConfigError(
                f"the exit {name} is called like the network {exit_name!r}, and mutual losses are called "
                "LEARNER.TEACHER: give the exit another name."
            )
    return {
        (learner, teacher): f"{learner}.{teacher}"
        for learner, own in zip(predictors, networks, strict=True)
        for teacher, other in zip(predictors, networks, strict=True)
        if own != other
    }
