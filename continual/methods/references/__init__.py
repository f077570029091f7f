"""References: what every mitigation is compared with."""
