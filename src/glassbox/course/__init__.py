"""The grader of the course's exercises and its catalogue of classic mistakes."""
