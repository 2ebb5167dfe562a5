"""Judge the claims of the paper by stored results: numbers in, what was measured and a verdict out.

Each function takes the ``numbers`` of analyses or the content of a table's JSON, by method where there are several, and
counts conditions: "holds" where all are met, "in part" where some are, "not reproduced" where none is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from finer_nerfstudio.inr.methods import PROTOCOLS
from finer_nerfstudio.reproduction.published import FAMILIES

Numbers = Mapping[str, Any]

# A difference of PSNR in dB that counts, between runs of one image.
_CLEARLY = 0.5
# A difference between shares that counts.
_OF_SHARES = 0.05


@dataclass(frozen=True)
class Claim:
    """What became of a claim.

    Attributes:
        measured: the numbers, in sentences.
        verdict: what they say of the claim, with the condition where there are several.
    """

    measured: str
    verdict: str


def verdict(*conditions: bool) -> str:
    """Say how many of the conditions of a claim are met."""
    held = sum(bool(condition) for condition in conditions)
    if held == len(conditions):
        return "holds"
    return "not reproduced" if held == 0 else f"in part ({held} of {len(conditions)})"


def decimals(value: float | None, places: int = 0) -> str:
    """Write a number with so many decimals and thousands set apart; "n/a" where there is none."""
    return "n/a" if value is None else f"{value:,.{places}f}"


def scientific(value: float | None, places: int = 2) -> str:
    """Write a number as 1.23e-4; "n/a" where there is none."""
    if value is None:
        return "n/a"
    mantissa, exponent = f"{value:.{places}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def bumps_repeat(activations: Mapping[str, Numbers]) -> Claim:
    """Figs. 1a and 3: one bump becomes many, unless ωf is too small; where it is too large, bumps overlap.

    Args:
        activations: numbers of ``finer analyze activations`` by the name of the family, with ωf of 0.5 and 40.
    """
    sentences, conditions = [], []
    for family, numbers in activations.items():
        found = numbers["activations"]
        base, own = found["base"], found["variable-periodic"]
        small, large = found["omega_f = 0.5"], found["omega_f = 40"]
        sentences.append(
            f"{family}: {base['bumps']} and {own['bumps']} bumps; {small['bumps']} with ωf = 0.5; with ωf = 40 bumps "
            f"overlap so far that {decimals(100 * large['relative_range'])} % of the base's range is left."
        )
        conditions += [
            base["bumps"] == 1,
            own["bumps"] > 1,
            small["verdict"] == "degenerate",
            large["verdict"] == "flat",
        ]
    return Claim(f"Between -1 and 1: {' '.join(sentences)}", verdict(*conditions))


def wider_biases_fit_more(initializations: Mapping[str, Numbers]) -> Claim:
    """Figs. 1b and 7: at small scales, a wider bias range fits more of an image, high frequencies among it.

    Args:
        initializations: numbers of ``finer analyze initialization`` by method, with k of 1, 5, 10 and 20.
    """
    sentences, better, high, falls = [], [], [], 0
    for method, numbers in initializations.items():
        networks = numbers["networks"]
        low, best = networks["k = 1"], networks[numbers["best"]]
        sentences.append(
            f"{method}: {_listed(networks, 'psnr', 1)} dB, high frequencies alone {_listed(networks, 'psnr_high', 1)}."
        )
        falls += networks["k = 20"]["psnr"] < networks["k = 10"]["psnr"]
        better.append(best["psnr"] > low["psnr"] + _CLEARLY)
        high.append(best["psnr_high"] > low["psnr_high"] + _CLEARLY)
    return Claim(
        "PSNR for k = 1 / 5 / 10 / 20, of all frequencies and of those above a quarter of the highest. "
        f"{' '.join(sentences)} From k = 10 to k = 20 the PSNR falls in {falls} of {len(initializations)}.",
        f"the best k beats k = 1 by half a dB: {verdict(*better)}; at high frequencies alone: {verdict(*high)}",
    )


def wider_weights_train_worse(gaps: Mapping[str, Numbers]) -> Claim:
    """Fig. 2: weights p times wider begin as the same network as a scale p, and train worse.

    Args:
        gaps: numbers of ``finer analyze gap`` by method; the last scale is the published one.
    """
    sentences, conditions, difference = [], [], 0.0
    for method, numbers in gaps.items():
        scale, gap = list(numbers["scale_parameters"].items())[-1]
        sentences.append(
            f"{method} with {numbers['parameter']} = {scale}: {decimals(gap['psnr_scale'], 1)} dB, with weights "
            f"{scale} times wider {decimals(gap['psnr_weights'], 1)}."
        )
        difference = max(difference, gap["difference_at_start"])
        conditions.append(gap["gap"] > _CLEARLY)
    return Claim(
        f"Before training, outputs differ by {scientific(difference, 0)} at most. {' '.join(sentences)}",
        f"behind by half a dB at the published scale, at the same learning rate: {verdict(*conditions)}",
    )


def spectrum_grows(kernels: Mapping[str, Numbers], *, points: int) -> Claim:
    """Fig. 5: the number of eigenvalues above 1 of the neural tangent kernel grows with k.

    Args:
        kernels: numbers of ``finer analyze ntk`` by method, with k in rising order.
        points: at which the kernel was evaluated.
    """
    sentences, conditions = [], []
    for method, numbers in kernels.items():
        networks = numbers["networks"]
        sentences.append(
            f"{method}: {_listed(networks, 'above_one')}, effective rank {_listed(networks, 'effective_rank')}."
        )
        conditions += _rising([network["above_one"] for network in networks.values()])
    return Claim(
        f"Of {points:,}, for k = 1 / 5 / 10 / 20. {' '.join(sentences)}",
        f"from each k to the next: {verdict(*conditions)}",
    )


def scale_matters_less(sweeps: Sequence[Numbers]) -> Claim:
    """Fig. 6: FINER++ depends less on the scale than its base.

    Args:
        sweeps: numbers of ``finer analyze robustness`` of each family.
    """
    sentences, wider, ahead = [], [], []
    for numbers in sweeps:
        (ours,) = (method for method in numbers["methods"] if method in FAMILIES)
        stretches = [
            f"{method}: {'at least ' if row['open_ended'] else ''}{decimals(row['octaves'], 1)} octaves, best "
            f"{decimals(row['best_psnr'], 1)} dB;"
            for method, row in numbers["methods"].items()
        ]
        count, scales = numbers["finer_ahead_at"], numbers["scales"]
        sentences.append(f"{' '.join(stretches)} {ours} is ahead at {count} of {scales} scales.")
        wider.append(numbers["more_robust"] == ours)
        ahead.append(2 * count > scales)
    constant = decimals(sweeps[0]["psnr_of_constant"], 1)
    return Claim(
        f"Stretch of scales within 3 dB of a method's own best. {' '.join(sentences)} An image of one colour has "
        f"{constant} dB.",
        f"wider stretch: {verdict(*wider)}; better at most scales: {verdict(*ahead)}",
    )


def neurons_reach_higher(neurons: Mapping[str, Numbers]) -> Claim:
    """Fig. 8: first-layer neurons of FINER++ reach to higher frequencies than its base's.

    Args:
        neurons: numbers of ``finer analyze neurons`` by method, of each base and its FINER++ method.
    """
    sentences, conditions = [], []
    for ours, base in _pairs(neurons):
        found = {method: neurons[method]["cycles_per_longer_side"]["initial"] for method in (base, ours)}
        ranges = [
            f"{method} {decimals(row['lowest'], 1)} to {decimals(row['highest'], 1)} ({row['responding']} of "
            f"{row['neurons']} neurons)"
            for method, row in found.items()
        ]
        sentences.append(f"{', '.join(ranges)}.")
        conditions.append(found[ours]["highest"] > found[base]["highest"])
    return Claim(
        "Untrained neurons at published scales that respond to the image, from the slowest to the fastest, in cycles "
        f"across it. {' '.join(sentences)}",
        f"the fastest neuron of FINER++ is faster than its base's: {verdict(*conditions)}",
    )


def whole_axis_is_used(utilization: Numbers) -> Claim:
    """Characteristic 1: a base activation is used in its central bump alone, FINER++'s on the whole axis.

    Args:
        utilization: numbers of ``finer analyze utilization`` of each base and its FINER++ method.
    """
    sentences, inside, more, flatter = [], [], [], []
    for ours, base in _pairs(utilization["methods"]):
        shares = {}
        for method in (base, ours):
            trained = utilization["methods"][method]["trained"]
            shares[method] = outside, flat = fmean(trained["outside_bump"]), fmean(trained["flat"])
            sentences.append(f"{method}: {decimals(outside, 2)} outside, {decimals(flat, 2)} flat.")
        inside.append(shares[base][0] < 0.5)
        more.append(shares[ours][0] > shares[base][0] + _OF_SHARES)
        flatter.append(shares[ours][1] < shares[base][1] - _OF_SHARES)
    return Claim(
        "Shares of pre-activations after training, mean over layers: outside the central bump, and where the "
        f"activation is flat, so that a neuron neither responds nor learns. {' '.join(sentences)}",
        f"bases are mostly inside: {verdict(*inside)}; FINER++ is outside more often: {verdict(*more)}; "
        f"FINER++ is flat less often: {verdict(*flatter)}",
    )


def bias_range_tunes_frequencies(frequencies: Mapping[str, Numbers]) -> Claim:
    """Characteristic 2: a base's frequencies are fixed by its scale, and k tunes those of FINER++.

    Args:
        frequencies: numbers of ``finer analyze frequencies``, of "siren" and of each FINER++ method with k in rising
            order.
    """
    (base,) = frequencies["siren"]["networks"].values()
    sentences, conditions = [], [base["highest_factor"] < 1.01]
    for method, numbers in _of_families(frequencies).items():
        sentences.append(f"{method} {_listed(numbers['networks'], 'highest_factor', 1)}.")
        conditions += _rising([network["highest_factor"] for network in numbers["networks"].values()])
    return Claim(
        "Highest ratio of a first-layer neuron's local frequency to its base frequency. siren "
        f"{decimals(base['highest_factor'], 1)}; gauss and wire do not repeat. For k = 1 / 5 / 10 / 20: "
        f"{' '.join(sentences)}",
        f"1 for siren, growing with each k for FINER++: {verdict(*conditions)}",
    )


def frequencies_follow_the_formula(frequencies: Mapping[str, Numbers]) -> Claim:
    """Eqs. 7 and 9: the local frequency at z is 2|z| + 1 times the base's, up to 2k + 1.

    Args:
        frequencies: numbers of ``finer analyze frequencies`` by method.
    """
    networks = [network for numbers in _of_families(frequencies).values() for network in numbers["networks"].values()]
    deviation = max(network["largest_deviation"] for network in networks)
    shares = [network["highest_factor"] / network["factor_limit"] for network in networks]
    return Claim(
        f"Measured local frequencies are within {scientific(deviation, 1)} of the formula, for all three families and "
        f"four k. The highest factor of a layer's neurons is {decimals(min(shares), 2)} to {decimals(max(shares), 2)} "
        "times 2k + 1. It can exceed 2k + 1, because a repeat has a width and part of it lies beyond k.",
        f"formula to a thousandth: {verdict(deviation < 1e-3)}; highest factors within 5 % of 2k + 1: "
        f"{verdict(min(shares) > 0.95, max(shares) < 1.05)}",
    )


def ahead_on_images(table: Numbers) -> Claim:
    """Table 1: FINER++ is ahead of its base in each family, and FINER++ Sine the best.

    Args:
        table: what ``finer reproduce table1`` wrote, with WIRE at a tenth of its learning rate too.
    """
    psnr = {row["method"]: row["mean"]["psnr"] for row in table["rows"]}
    slow_wire = psnr.pop("wire (lr 0.0005)")
    shown = {**psnr, "wire at a tenth of its learning rate": slow_wire}
    listed = ", ".join(f"{method} {decimals(value, 1)}" for method, value in shown.items())
    ahead = [psnr[ours] > psnr[base] for ours, base in FAMILIES.items()]
    return Claim(
        f"128\u00d7128, 300 steps, mean of {len(table['items'])} images: {listed} dB.",
        f"ahead of the base at published rates: {verdict(*ahead)}; of WIRE at a tenth of its rate: "
        f"{verdict(psnr['finer-wavelet'] > slow_wire)}; FINER++ Sine best at published rates: "
        f"{verdict(psnr['finer-sine'] == max(psnr.values()))}",
    )


def near_on_shapes(run: Numbers) -> Claim:
    """Table 2: FINER++ Wavelet on the Armadillo.

    Args:
        run: the ``metrics.json`` of ``finer fit-sdf``.
    """
    share = 100 * run["steps"] / PROTOCOLS["sdf"].steps
    return Claim(
        f"FINER++ Wavelet after ten minutes, {decimals(share, 1)} % of the paper's steps: "
        f"{decimals(run['iou_paper'], 4)} and {scientific(run['chamfer_paper'])}.",
        "not measured at the paper's length; methods not compared",
    )


def ahead_on_radiance_fields(runs: Mapping[str, Numbers], *, luck: float) -> Claim:
    """Table 3: FINER++ is ahead of its base in each family.

    Args:
        runs: what ``finer compare`` wrote, by method.
        luck: dB by which two runs of the same settings differ.
    """
    psnr = {method: run["psnr"] for method, run in runs.items()}
    sentences, conditions, missing = [], [], ""
    for ours, base in FAMILIES.items():
        if ours in psnr and base in psnr:
            sentences.append(f"{base} {decimals(psnr[base], 2)}, {ours} {decimals(psnr[ours], 2)}.")
            conditions.append(psnr[ours] > psnr[base] + luck)
        else:
            missing += f"; {base} and {ours}: not measured"
    views = next(iter(runs.values()))["views"]
    return Claim(
        "Lego, 15 minutes on two cores, networks of 112 units, tuned learning rates, tuned ω0 of FINER++ Sine, tuned "
        f"scales of Gauss, FINER++ Gauss and WIRE; PSNR on {views} of 200 test views. {' '.join(sentences)}",
        f"ahead by more than {luck} dB, the difference between two equal runs of four minutes: "
        f"{verdict(*conditions)}{missing}; the paper's own figures: not measured",
    )


def _listed(networks: Mapping[str, Numbers], key: str, places: int = 0) -> str:
    return " / ".join(decimals(network[key], places) for network in networks.values())


def _rising(values: Sequence[float]) -> list[bool]:
    return [first < second for first, second in pairwise(values)]


def _pairs(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return FINER++ methods and their bases, of which both are there."""
    return [(ours, base) for ours, base in FAMILIES.items() if ours in found and base in found]


def _of_families(found: Mapping[str, Numbers]) -> dict[str, Numbers]:
    return {method: found[method] for method in FAMILIES if method in found}
