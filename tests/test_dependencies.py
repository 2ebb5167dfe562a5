"""What is installed beside the package."""

from __future__ import annotations

from importlib.metadata import packages_distributions


def test_each_package_comes_from_one_distribution() -> None:
    """opencv-python and opencv-python-headless write the same folder; which of the two is imported is then luck."""
    providers = {package: sorted(set(names)) for package, names in packages_distributions().items()}
    assert "cv2" in providers
    shared = {package: names for package, names in providers.items() if len(names) > 1 and not _is_namespace(package)}
    assert shared == {}


def _is_namespace(package: str) -> bool:
    """Return whether `package` is made for several distributions: it has no file of its own."""
    module = __import__(package)
    return getattr(module, "__file__", None) is None
