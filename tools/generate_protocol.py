"""Generates afs/v1 from proto/afs/v1, or checks that it is what would be generated.

`python -m tools.generate_protocol` writes; with `--check` it compares, changes nothing, and exits 1
where afs/v1 differs. The tools are pinned exactly: the same sources give the same bytes anywhere.
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "proto"
PACKAGE = Path("afs/v1")
PACKAGE_MARK = '"""Generated from proto/afs/v1 by `make proto`; never edited."""\n'


def main() -> int:
    """Generates or compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as name:
        new = _generate(Path(name))
    old = {
        path.name: path.read_bytes() for path in (ROOT / PACKAGE).glob("*.py*") if path.is_file()
    }
    different = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
    for name in different:
        print(
            f"{PACKAGE / name}: {'differs' if check else 'written' if name in new else 'removed'}"
        )
        if check:
            continue
        if name in new:
            (ROOT / PACKAGE / name).write_bytes(new[name])
        else:
            (ROOT / PACKAGE / name).unlink()
    if check and different:
        print(
            "afs/v1 is not what proto/ generates: run `make proto` and commit both", file=sys.stderr
        )
        return 1
    return 0


def _generate(target: Path) -> dict[str, bytes]:
    """The generated files by name."""
    # The plugins of protoc lie beside the interpreter, which need not be on the path.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    include = [f"--proto_path={SOURCES}", f"--proto_path={well_known}"]
    sources = sorted(str(path.relative_to(SOURCES)) for path in (SOURCES / PACKAGE).glob("*.proto"))
    described = target / "all.binpb"
    _protoc(*include, f"--descriptor_set_out={described}", *sources)
    files = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file
    with_service = sorted(file.name for file in files if file.service)
    _protoc(*include, f"--python_out={target}", f"--mypy_out=quiet:{target}", *sources)
    _protoc(
        *include, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", *with_service
    )
    generated = {path.name: path.read_bytes() for path in (target / PACKAGE).iterdir()}
    return {**generated, "__init__.py": PACKAGE_MARK.encode()}


def _protoc(*arguments: str) -> None:
    """Runs protoc; its complaints are on standard error."""
    if status := protoc.main(["protoc", *arguments]):
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(main())
