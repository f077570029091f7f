"""Trained policies: restored from run folders, acting, exported, meeting each other."""
