"""Does one neuron write several things? Clusters among the directions of its largest effects.

    lines        u_i = (phi_i - mean) / |phi_i - mean| of the top rows; likeness cos(u_i, u_j)^2, distance 1 - cos^2: an
                 effect and its opposite lie on one line, which one component describes
    clusters     average linkage cut into 2 .. c; the cut of largest mean silhouette (Rousseeuw 1987)
    null         rows drawn from one Gaussian with the effects' own covariance (SigClust, Liu et al. 2008): a stretched
                 cloud splits in two as well, so only what beats such clouds counts
    polysemantic clusters that beat the null (q <= .05), and at least one of: PC1 explains less than half of the top
                 rows' effects; more than so many phrases are needed for a cosine of .8 (or it is never reached)

Effects are centred on their mean over fit, so two meanings that each fill half of all texts lie on one line and are not
told apart; two that are each rare are.

Cost: (draws + 1) * (c - 1) cuts of at most `MOST` rows a neuron, a sixth of a millisecond each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST = 60
"""Rows (those of the largest effects) that are clustered at most."""


@dataclass(frozen=True)
class Clusters:
    """The best cut of one neuron's top effects: how many clusters, its silhouette, that of null draws `[draws]`, and
    the share of rows in the largest cluster."""

    count: int
    silhouette: float
    null: np.ndarray
    largest: float


def line_distance(gram: np.ndarray) -> np.ndarray:
    """1 - cos^2 between rows, from their Gram matrix `[k, k]`; a row of zeros is far from all."""
    size = np.sqrt(np.maximum(np.diag(gram), 0.0))
    outer = np.outer(size, size)
    cosine = np.divide(gram, outer, out=np.zeros_like(gram), where=outer > 0)
    distance = 1.0 - np.minimum(cosine**2, 1.0)
    np.fill_diagonal(distance, 0.0)
    return (distance + distance.T) / 2


def silhouette(distance: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of labelled rows; a row alone in its cluster counts 0."""
    names, which = np.unique(labels, return_inverse=True)
    member = np.eye(len(names))[which]
    sizes = member.sum(0)
    sums = distance @ member
    own = sums[np.arange(len(which)), which] / np.maximum(sizes[which] - 1, 1)
    other = np.where(member > 0, np.inf, sums / sizes).min(1)
    larger = np.maximum(own, other)
    value = np.divide(other - own, larger, out=np.zeros(len(which)), where=larger > 0)
    return float(np.where(sizes[which] > 1, value, 0.0).mean())


def best_cut(distance: np.ndarray, most: int) -> tuple[int, float, float]:
    """(clusters, silhouette, share of rows in the largest) of the best cut into 2 .. most."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    cuts = tree_cuts(linkage(squareform(distance, checks=False), "average"), min(most, len(distance) - 1))
    found = [silhouette(distance, labels) for labels in cuts]
    best = int(np.argmax(found))
    return best + 2, found[best], float(np.bincount(cuts[best]).max() / len(distance))


def tree_cuts(tree: np.ndarray, most: int) -> list[np.ndarray]:
    """Labels `[n]` of a linkage tree's leaves (scipy's form) cut into 2, 3, .. most clusters.

    scipy's cut_tree gives the same groups, and takes fifty times as long: these trees are small and many.
    """
    leaves = len(tree) + 1
    members = {i: [i] for i in range(leaves)}
    cuts: list[np.ndarray] = []
    for i, (a, b) in enumerate(tree[:-1, :2].astype(int).tolist()):
        members[leaves + i] = members.pop(a) + members.pop(b)
        if len(members) <= most:
            labels = np.empty(leaves, dtype=np.int64)
            for label, rows in enumerate(members.values()):
                labels[rows] = label
            cuts.append(labels)
    return cuts[::-1]


def clusters(gram: np.ndarray, most: int, draws: int, rng: np.random.Generator) -> Clusters:
    """Clusters of one neuron's effects beside one Gaussian cloud of the same covariance.

    Args:
        gram: `[k, k]` inner products of the centred effects of the top rows, largest first, k >= 4.
        most: clusters that are looked for at most.
    """
    gram = np.asarray(gram, dtype=np.float64)[:MOST, :MOST]
    count, value, largest = best_cut(line_distance(gram), most)
    spectrum = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0) / len(gram))
    null = np.empty(draws)
    for i in range(draws):
        cloud = rng.standard_normal(gram.shape) * spectrum
        null[i] = best_cut(line_distance(cloud @ cloud.T), most)[1]
    return Clusters(count, value, null, largest)


def polysemantic(
    q: np.ndarray, evr: np.ndarray, needed: np.ndarray, max_evr: float, many: int, alpha: float = 0.05
) -> np.ndarray:
    """The rule of the file's head, `[S]` bool. `needed` is 0 where the cosine is never reached."""
    clustered = np.nan_to_num(q, nan=1.0) <= alpha
    spread = np.nan_to_num(evr, nan=1.0) < max_evr
    wordy = (needed == 0) | (needed > many)
    return clustered & (spread | wordy)
