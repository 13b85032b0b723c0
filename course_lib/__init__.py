"""The library behind the audio course: recordings -> clips -> model -> fit -> predictions -> scores -> figures."""

__version__ = "0.1.0"


class CourseError(Exception):
    """Base of the course's errors: something a person can put right, and the message says how."""
