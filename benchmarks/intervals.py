"""How often the 95 % interval of an image AUROC holds the truth, and how wide it is: two normal distributions.

`python -m benchmarks.intervals`
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from patchbank.metrics.resampling import auroc_interval, draws, percentiles, weighted_auroc

SETS = 600


def main() -> None:
    """One line per number of images and AUROC."""
    rng = np.random.default_rng(5)
    print("good + defective  AUROC  holds  width  plain percentiles hold")
    for n_good, n_bad, shift in ((20, 20, 1.0), (20, 20, 2.5), (50, 50, 3.0), (20, 100, 3.0), (200, 200, 3.0)):
        truth = NormalDist().cdf(shift / 2**0.5)
        labels = np.arange(n_good + n_bad) >= n_good
        held, widths, plain = [], [], []
        for _ in range(SETS):
            scores = rng.standard_normal(labels.size) + shift * labels
            low, high = auroc_interval(labels, scores)
            held.append(low <= truth <= high)
            widths.append(high - low)
            low, high = percentiles(np.concatenate([weighted_auroc(w, labels, scores) for w in draws(labels)]))
            plain.append(low <= truth <= high)
        numbers = f"{np.mean(held):.3f}  {np.mean(widths):.3f}  {np.mean(plain):.3f}"
        print(f"{n_good:4} + {n_bad:<4}        {truth:.3f}  {numbers}")


if __name__ == "__main__":
    main()
