"""The compiled engine beside its peers: how fast it is, and what agents learn under it."""
