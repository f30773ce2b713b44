"""The boolean study: does the model compute newB on the way to newD?"""
