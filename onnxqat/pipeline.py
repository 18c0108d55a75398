"""The whole job: the stages in order."""
