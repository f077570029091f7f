"""Probes of trained agents: how robust, quick to adapt and explainable each stage of a run is."""
