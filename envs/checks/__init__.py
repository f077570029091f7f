"""Checks of environments: will this one work here?"""
