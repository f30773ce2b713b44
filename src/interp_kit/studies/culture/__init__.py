"""The culture study: how networks solve grid quizzes, and how they were trained."""
