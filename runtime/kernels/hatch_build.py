"""Compiles the library into the wheel, with the C compiler that comes from PyPI (ziglang): no other one is needed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# By system: the compiler's target, the library's ending, the wheel's tag.
_TARGETS = {
    "linux": ("x86_64-linux-gnu.2.27", "so", "manylinux_2_27_x86_64"),
    "musl": ("x86_64-linux-musl", "so", "musllinux_1_2_x86_64"),
    "darwin": ("x86_64-macos.11.0", "dylib", "macosx_11_0_x86_64"),
    "win32": ("x86_64-windows-gnu", "dll", "win_amd64"),
}


class CompileKernels(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        musl = "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "")
        system = "musl" if musl else sys.platform
        if platform.machine().lower() not in ("x86_64", "amd64") or system not in _TARGETS:
            return  # a wheel without a library: the package says so when it is asked for one
        target, ending, tag = _TARGETS[system]
        root = Path(self.root)
        library = root / "edgeport_kernels" / f"kernels.{ending}"
        compile_library(root / "src", library, target)
        build_data["tag"] = f"py3-none-{tag}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(library.relative_to(root).as_posix())


def compile_library(sources: Path, library: Path, target: str) -> None:
    """Compile all C files in ``sources``.

    Raises:
        subprocess.CalledProcessError: the compiler refuses; it has said why.
    """
    # A cache of its own: the user's may be read-only, and what is compiled here is compiled once.
    with tempfile.TemporaryDirectory() as cache:
        _run_compiler(sources, library, target, {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache})


def _run_compiler(sources: Path, library: Path, target: str, environment: Mapping[str, str]) -> None:
    flags = ["-O3", "-DNDEBUG", "-std=gnu11", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden", "-s"]
    files = sorted(map(str, sources.glob("*.c")))
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", target, *flags, *files, "-o", str(library)],
        check=True,
        env={**os.environ, **environment},
    )
