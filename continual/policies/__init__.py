"""Trained policies: put together, restored from run folders, acting, exported."""
