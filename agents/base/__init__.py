"""What every agent is made of: its protocol, named parameters, observations, buffers."""
