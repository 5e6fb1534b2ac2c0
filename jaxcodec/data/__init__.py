"""From recordings to batches.

`opening.open_source` opens a folder, a manifest or a dataset; `survey.survey` leaves
out what is bad; `pipeline.Pipeline` makes batches of random crops from the rest, the
same for any number of processes, and resumes.
"""
