-- wrk: posts signed deliveries. ACK_BODY is a template in which @ is the merge commit; each line of ACK_LINES has a commit
-- and its signature. Each thread uses its own part of the lines, starting at ACK_FROM, so no merge is sent twice.
local threads = 0
function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  local file = assert(io.open(os.getenv("ACK_BODY"), "rb"))
  local template = file:read("*a")
  file:close()
  parts = {}
  for part in (template .. "@"):gmatch("([^@]*)@") do parts[#parts + 1] = part end
  lines = {}
  local number, from = 0, tonumber(os.getenv("ACK_FROM"))
  local count, all = tonumber(os.getenv("ACK_COUNT")), tonumber(os.getenv("ACK_THREADS"))
  for line in io.lines(os.getenv("ACK_LINES")) do
    if number >= from and number < from + count and number % all == id then lines[#lines + 1] = line end
    number = number + 1
  end
  path, event, at = os.getenv("ACK_PATH"), os.getenv("ACK_EVENT"), 0
end

function request()
  at = at % #lines + 1
  local commit, signature = lines[at]:match("(%S+) (%S+)")
  return wrk.format("POST", path, {
    ["Content-Type"] = "application/json",
    ["X-GitHub-Event"] = event,
    ["X-GitHub-Delivery"] = commit:sub(1, 8) .. "-0000-4000-8000-000000000000",
    ["X-Hub-Signature-256"] = "sha256=" .. signature,
  }, table.concat(parts, commit))
end

function done(summary, latency, requests)
  local e = summary.errors
  print(string.format('{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"errors":%d}', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
