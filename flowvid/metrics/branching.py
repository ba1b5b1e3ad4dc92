r"""How much of a coin is in a code: mutual information in bits, from samples.

- *Of a cluster*: I(found; coin) = H(found) + H(coin) - H(found, coin), every entropy from counts. Counts of n samples
  in K cells understate an entropy by (K - 1) / (2 n) nats on average (Miller and Madow), so the sum overstates the
  information of independent variables by (cells - rows - columns + 1) / (2 n) nats, which is taken off; only cells
  that occur are counted. A binary choice that is wrong with probability e about a fair coin holds 1 - H2(e) bits.
- *Of a real code*: any classifier q that has not seen a sample gives a lower bound, I(code; coin) >= H(coin) -
  E[-log2 q(coin | code)] (Barber and Agakov); here logistic regression, asked about samples it was not fitted to. It
  sees what is linear in the code; a code that hides the coin otherwise gets less, a useless one zero or below.

How many futures are reached, and how well their law is met: `flowvid.metrics.diversity`.

References:
    Note on the bias of information estimates (Miller, 1955)
    The IM algorithm: a variational approach to information maximization (Barber and Agakov, 2003),
    https://papers.nips.cc/paper/2410-information-maximization-in-noisy-channels-a-variational-approach
"""

__all__ = ["code_information", "coin_information"]

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def coin_information(found: Int64[Tensor, "sample"], coin: Int64[Tensor, "toss"]) -> float:
    """Mutual information of two discrete variables in bits, corrected for bias.

    The correction is right on average over samples, not in each: independent variables may come out slightly below 0,
    and a balanced coin that is told perfectly slightly above 1, by 1 / (2 n ln 2) for n tosses.

    Arguments:
        found: The cluster or choice of every sample.
        coin: What it should tell.

    Raises:
        ValueError: There are not as many of one as of the other, or none.
    """
    _check(found, coin)
    rows, columns = (torch.unique(values, return_inverse=True)[1] for values in (found, coin))
    joint = torch.zeros(int(rows.max()) + 1, int(columns.max()) + 1, dtype=torch.float64)
    joint.index_put_((rows.cpu(), columns.cpu()), torch.ones(len(found), dtype=torch.float64), accumulate=True)
    return _entropy(joint.sum(dim=1)) + _entropy(joint.sum(dim=0)) - _entropy(joint.flatten())


def code_information(
    code: Float[Tensor, "sample *code"], coin: Int64[Tensor, "toss"] | Bool[Tensor, "toss"], *, folds: int = 5
) -> float:
    """A lower bound on what a code tells of a coin, in bits, from a linear classifier on samples it has not seen.

    Arguments:
        code: The codes of independent samples, of any shape after the samples; two of one clip would be judged by
            each other.
        coin: What they should tell.
        folds: In how many parts the samples are divided; each is asked about once.

    Raises:
        ValueError: There are not as many codes as coins, a code is not finite, or a side of the coin has fewer samples
            than there are folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(code, coin)
    if not bool(code.isfinite().all()):
        raise ValueError("Codes must be finite; these hold NaN or infinity.")
    sides, labels = torch.unique(coin, return_inverse=True)
    counts = torch.bincount(labels).double()
    if len(sides) < 2 or folds < 2 or int(counts.min()) < folds:
        raise ValueError(
            f"A code is judged on at least 2 folds with every side of the coin in each; got {folds} folds and "
            f"{counts.long().tolist()} samples of the sides. Use more samples or fewer folds."
        )
    targets = labels.cpu().numpy()
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    vectors = code.detach().flatten(1).double().cpu().numpy()
    said = cross_val_predict(classifier, vectors, targets, cv=parts, method="predict_proba")
    given = torch.from_numpy(said)[torch.arange(len(targets)), torch.from_numpy(targets)].clamp(min=1e-12)
    return _entropy(counts) + float(given.log2().mean())


def _entropy(counts: Float[Tensor, "cell"]) -> float:
    """In bits, by Miller and Madow."""
    some = counts[counts > 0].cpu()
    share = some / some.sum()
    return float(-(share * share.log2()).sum() + (len(some) - 1) / (2 * some.sum() * math.log(2)))


def _check(found: Tensor, coin: Tensor) -> None:
    if len(found) != len(coin) or len(coin) == 0:
        raise ValueError(
            f"Expected one coin for every sample, and some; got {len(found)} samples and {len(coin)} coins."
        )
