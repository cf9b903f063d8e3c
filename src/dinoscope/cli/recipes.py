"""`dinoscope recipes`."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """List the recipes with what each is for."""
    import tyro
    from rich.table import Table

    from dinoscope.cli.console import Console
    from dinoscope.recipes import RECIPES

    tyro.cli(_no_options, args=argv, prog="dinoscope recipes", description="List the named settings of `train`.")
    table = Table("recipe", "what it is for", box=None, header_style="bold", padding=(0, 2, 1, 0))
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.about)
    Console().print(table, highlight=False)
    return 0


def _no_options() -> None:
    """Take no options."""
