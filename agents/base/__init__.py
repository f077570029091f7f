"""Parts of every agent: its protocol, named parameters, observations, buffers."""
