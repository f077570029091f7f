"""Streams: the experiences that carry tasks, and how an agent is measured on them."""

from holdfast.continual.streams.avalanche_core import load_scenarios_alone
from holdfast.home import ready_for_avalanche

ready_for_avalanche()  # before a module here imports it
load_scenarios_alone()
