"""From a bundle to something that runs: providers, cpu (what is here), select (which variant), session (run it)."""

from edgeport.session.cpu import cpu_features, processor_name, usable_threads
from edgeport.session.open_graph import open_graph
from edgeport.session.providers import PROVIDERS, Provider, resolve_providers
from edgeport.session.report import Report
from edgeport.session.session import Session, open_plain_session, open_session

__all__ = [
    "PROVIDERS",
    "Provider",
    "Report",
    "Session",
    "cpu_features",
    "open_graph",
    "open_plain_session",
    "open_session",
    "processor_name",
    "resolve_providers",
    "usable_threads",
]
