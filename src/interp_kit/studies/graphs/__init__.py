"""Causal-graph questions: do models compute the factors of elimination, and how deep do they generalise?"""
