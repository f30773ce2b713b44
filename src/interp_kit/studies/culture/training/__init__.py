"""The culture protocol: several MyGPTs learn world quizzes in rotation, then make quizzes for one another."""
