"""What pyproject.toml cannot say: the native engine is built where there is a compiler and left out elsewhere."""

import sys

from setuptools import Extension, setup

FOLDER = "src/movinet/engines/native"

setup(
    ext_modules=[
        Extension(
            "movinet.engines.native._core",
            [f"{FOLDER}/{name}.cpp" for name in ("core", "kernels_avx512", "kernels_avx2", "kernels_portable")],
            depends=[f"{FOLDER}/{name}" for name in ("kernels.inc", "kernels.h", "movinet.h")],
            language="c++",
            extra_compile_args=[]
            if sys.platform == "win32"
            else ["-std=c++17", "-O3", "-g0", "-fno-math-errno", "-Wno-psabi"],
            optional=True,
        )
    ]
)
