"""An import contract of ours for import-linter: a package imports what is listed, and nothing else.

A list of what is forbidden would forget something; what a sans-IO core needs is short.
"""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyImports(Contract):
    """Modules of `packages` import directly only each other and `allowed` modules.

    Configuration options:
        - packages: packages, with all modules in them. Each may import its own modules, and not
          those of the other packages.
        - allowed: modules, of the standard library too (named by their top level); a package
          stands for itself alone, not for the modules in it.
    """

    type_name = "only_imports"

    packages = fields.SetField(subfield=fields.StringField())
    allowed = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002, FBT001
        """Finds the imports that are not allowed."""
        options: Any = self
        broken = []
        for package in sorted(options.packages):
            modules = {package, *graph.find_descendants(package)}
            for module in sorted(modules):
                imported = graph.find_modules_directly_imported_by(module)
                broken += [(module, name) for name in sorted(imported - modules - options.allowed)]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Prints each import that is not allowed."""
        for module, name in check.metadata["broken"]:
            output.print_error(f"{module} imports {name}", bold=True)
        output.new_line()
        output.print("A core is sans-IO: see CONTRIBUTING.md.")
