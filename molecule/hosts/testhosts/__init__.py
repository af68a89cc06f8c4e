"""Throwaway hosts for the tests: containers for speed, virtual machines for truth."""
