"""Deraining networks, each with and without modulation."""

from coic.models.backbone import Backbone
from coic.models.registry import create, Entry, names

__all__ = ['Backbone', 'Entry', 'create', 'names']
