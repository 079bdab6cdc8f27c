"""The import contract that keeps cores pure."""

from __future__ import annotations

from grimp import ImportGraph

from tools.import_contracts import OnlyImports


def _broken(*imports: tuple[str, str]) -> list[tuple[str, str]]:
    """The imports that a contract on two cores finds fault with."""
    graph = ImportGraph()
    for module in ("afsd", "afsd.core", "afsd.core.hosts", "afsd.app", "clientd", "clientd.core"):
        graph.add_module(module)
    for module in ("afs", "afs.types", "afs.types.deep"):
        graph.add_module(module)
    for importer, imported in imports:
        if imported not in graph.modules:
            graph.add_module(imported, is_squashed=True)
        graph.add_import(importer=importer, imported=imported)
    contract = OnlyImports(
        name="cores",
        session_options={},
        contract_options={
            "packages": ["afsd.core", "clientd.core"],
            "allowed": ["afs.types", "math"],
        },
    )
    check = contract.check(graph, verbose=False)
    broken: list[tuple[str, str]] = check.metadata["broken"]
    assert check.kept is not bool(broken)
    return broken


def test_allowed_imports_pass() -> None:
    """A core may import itself and what is listed; a shell may import anything."""
    assert not _broken(
        ("afsd.core", "afsd.core.hosts"),
        ("afsd.core.hosts", "afs.types"),
        ("afsd.core.hosts", "math"),
        ("afsd.app", "asyncio"),
        ("afsd.app", "afsd.core.hosts"),
    )


def test_everything_else_is_refused() -> None:
    """A core that imports its shell, another core, I/O or the inside of a listed one is found."""
    forbidden = [
        ("afsd.core", "clientd.core"),
        ("afsd.core.hosts", "afs.types.deep"),
        ("afsd.core.hosts", "afsd.app"),
        ("afsd.core.hosts", "asyncio"),
        ("clientd.core", "time"),
    ]
    assert _broken(*forbidden) == forbidden
