"""The library behind the audio course: recordings -> clips -> model -> fit -> predictions -> scores -> figures."""

__version__ = "0.1.0"
