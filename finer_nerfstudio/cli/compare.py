"""Train radiance fields with several methods for the same time and lay their test results side by side.

    finer compare --data data/demo --minutes 3
    finer compare --data blender/lego --minutes 15 --train-view-stride 4 --methods siren finer-sine

Every method goes through ns-train and ns-eval. A method whose results are there already is not trained again, so that
an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from finer_nerfstudio.reproduction.comparison import TABLE_HEADINGS, Comparison, compare_methods, table_row

OPTIONS = Comparison


def run(config: Comparison) -> None:
    """Compare the methods, and print a table and what to look at next."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        compared = compare_methods(config, lambda sentence: console.print(sentence, markup=False))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"methods that were finished are kept in {config.output_dir}, and the same command goes on with the others"
        ) from None
    shown = Table(*TABLE_HEADINGS)
    for method, result in compared.results.items():
        shown.add_row(*table_row(method, result))
    console.print(shown)
    best = max(compared.results, key=lambda method: compared.results[method]["psnr"])
    console.print(f"truth, {', '.join(compared.results)} side by side: {compared.picture}", markup=False)
    console.print(f"next: ns-viewer --load-config {compared.runs / compared.results[best]['config']}", markup=False)
