-- For wrk: what its clients ask, and what came of it as a line of JSON.
--   wrk … --script load.lua http://127.0.0.1 -- ENDPOINT

local users = 10000
local headers = { ["Content-Type"] = "application/json" }
local make = {
  bare = function() return wrk.format("GET", "/") end,
  live = function() return wrk.format("GET", "/health/live") end,
  sleep = function() return wrk.format("GET", "/sleep") end,
  static = function() return wrk.format("GET", "/static/style.css") end,
  select = function() return wrk.format("GET", "/users/" .. math.random(users)) end,
  insert = function() return wrk.format("POST", "/users", headers, '{"name": "Nguyen Van An"}') end,
}

function init(arguments)
  request = make[arguments[1]]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
