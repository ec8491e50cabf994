"""The embedded annotator: a small text model shipped with the package, combined with pixel evidence."""

from .annotator import LocalAnnotator

__all__ = ["LocalAnnotator"]
