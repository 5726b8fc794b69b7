-- For wrk: POSTs of 4 bytes; says at the end, as JSON, how many there were, in how long, and how many failed.
wrk.method = "POST"
wrk.path = "/predict"
wrk.body = "\0\0\0\0"
wrk.headers["Content-Type"] = "application/octet-stream"

function done(summary)
  local e = summary.errors
  print(string.format('{"requests": %d, "seconds": %f, "failed": %d}', summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
