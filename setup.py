"""Packaging of mitogen. No dependencies: the library is the standard library and itself."""

import ast
import pathlib
import sys

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent


def version():
    """Return VERSION of mitogen/identity.py as text, read without importing the package."""
    tree = ast.parse((HERE / "mitogen" / "identity.py").read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if [getattr(target, "id", None) for target in targets] == ["VERSION"]:
            numbers = ast.literal_eval(node.value)
            return ".".join(str(part) for part in numbers).replace(".dev", "dev")
    raise SystemExit("mitogen/identity.py does not set VERSION = (major, minor, patch)")


def long_description():
    """Return the README, or nothing where there is none (a partial checkout)."""
    readme = HERE / "README.rst"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


#: Where Ansible looks for plugins of its own accord: a collection, `mitogen.ansible`.
COLLECTION = pathlib.Path("ansible_collections", "mitogen", "ansible", "plugins")
#: Where configurations that were written for 0.3 look for plugins.
FORMER = pathlib.Path("ansible_mitogen", "plugins")


class Build(build_py):
    """
    Adds core.py as it is sent, which an ordinary user's process could not keep there, and Ansible's
    plugins where Ansible finds them.
    """

    def run(self):
        super().run()
        sys.path.insert(0, str(HERE))
        from mitogen.ansible.setup import former_package
        from mitogen.bootstrap import preamble

        target = pathlib.Path(self.build_lib, "mitogen", preamble.SHIPPED)
        target.write_bytes(preamble.stamp_of_contents() + b"\n" + preamble.make())
        for source in sorted(HERE.glob("ansible_plugins/*/*.py")):
            # Beside stock plugins, from a checkout, they need another name than those. Strategies
            # keep the name that playbooks have.
            strategy = source.parent.name == "strategy"
            name = source.name if strategy else source.name.removeprefix("mitogen_")
            places = [pathlib.Path(self.build_lib, COLLECTION, source.parent.name, name)]
            if source.parent.name in ("strategy", "connection"):
                places.append(pathlib.Path(self.build_lib, FORMER, source.parent.name, source.name))
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(source.read_bytes())
        for path, text in former_package.FILES.items():
            pathlib.Path(self.build_lib, FORMER.parent, path).write_text(text, encoding="utf-8")


setup(
    name="mitogen",
    cmdclass={"build_py": Build},
    version=version(),
    description="Run Python on other machines and in other accounts with nothing installed there",
    long_description=long_description(),
    long_description_content_type="text/x-rst",
    author="The mitogen authors",
    license="BSD-3-Clause",
    packages=find_packages(include=["mitogen", "mitogen.*"]),
    package_data={"mitogen": ["py.typed"]},
    zip_safe=False,
    # The controlling machine's. What is sent to a target runs on 3.6 and is never installed there.
    python_requires=">=3.9",
    install_requires=[],
    entry_points={"console_scripts": ["mitogen = mitogen.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: MacOS :: MacOS X",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Programming Language :: Python :: 3.15",
        "Programming Language :: Python :: Implementation :: CPython",
        "Programming Language :: Python :: Implementation :: PyPy",
        "Topic :: System :: Distributed Computing",
        "Topic :: System :: Systems Administration",
        "Typing :: Typed",
    ],
)
