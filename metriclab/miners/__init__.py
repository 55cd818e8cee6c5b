"""Miners: which pairs a loss sees. Each module registers its own."""
