"""The supervised agent: Avalanche trains it."""

from holdfast.home import ready_for_avalanche

ready_for_avalanche()  # before a module here imports it
