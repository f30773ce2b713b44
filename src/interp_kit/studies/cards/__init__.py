"""Cards: does supervised fine-tuning memorise where reinforcement learning generalises, down to the circuit?"""
