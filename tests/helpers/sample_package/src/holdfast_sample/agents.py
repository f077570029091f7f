"""An algorithm."""

from stable_baselines3 import PPO


class PatientPPO(PPO):
    """PPO that looks further ahead."""

    def __init__(self, policy, env, gamma: float = 0.999, **kwargs):
        super().__init__(policy, env, gamma=gamma, **kwargs)
