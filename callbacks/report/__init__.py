from callbacks.report.callback import RunReport
