-- Accept a job or refuse it, all of it or nothing: its first event, its place in the fair order,
-- RQ's books. Returns {verdict, what}.
local log, jobs, order, turns, clock, deadlines, attended, in_flight, idempotency,
  rq_list, rq_job, rq_queues, wake, tokens = unpack(KEYS)
local job, event, request, channel, now, priority, client, ttl, attended_for,
  max_queued, max_in_flight, fingerprint, idempotency_ttl, seconds_per_job,
  daily_tokens, reserved, tokens_ttl = unpack(ARGV, 1, 17)
local FIRST_RQ_FIELD = 18

-- Sent again: its reply was lost.
if redis.call('EXISTS', log) == 1 then return {'known', job} end
if fingerprint ~= '' then
  local known = redis.call('HMGET', idempotency, 'job', 'fingerprint')
  if known[1] then
    return known[2] == fingerprint and {'known', known[1]} or {'conflict', known[1]}
  end
end
local waiting = redis.call('ZCARD', order)
if waiting >= tonumber(max_queued) then return {'queue_full', tostring(waiting)} end
local mine = redis.call('SCARD', in_flight)
if mine >= tonumber(max_in_flight) then return {'in_flight', tostring(mine)} end
if daily_tokens ~= '' then  -- the last refusal: from here on they are set aside
  local left = tonumber(daily_tokens) - tonumber(redis.call('HGET', tokens, 'total') or 0)
  if tonumber(reserved) > left then return {'tokens', tostring(math.max(0, left))} end
  redis.call('HINCRBY', tokens, 'total', reserved)
  redis.call('HSET', tokens, job, reserved)
  redis.call('EXPIRE', tokens, tokens_ttl)
end

-- Start-time fair queueing (Goyal et al. 1996) with jobs of equal weight: a client's next job
-- comes one turn behind its last, and never before what was taken last.
local class = 9 - tonumber(priority)
local base = class * 2 ^ 40
local turn = tonumber(redis.call('HGET', clock, class) or base)
local last = redis.call('ZSCORE', turns, class .. ':' .. client)
if last then turn = math.max(turn, tonumber(last) + 1) end
redis.call('ZADD', turns, turn, class .. ':' .. client)
redis.call('ZADD', order, turn, job)

local queued = cjson.decode(event)
queued.position = redis.call('ZRANK', order, job)
if seconds_per_job ~= '' then queued.estimate = queued.position * tonumber(seconds_per_job) end
event = cjson.encode(queued)
redis.call('XADD', log, '1-0', 'event', event, 'writer', 'api', 'end', '0', 'request', request)
redis.call('PUBLISH', channel, event)

redis.call('ZADD', jobs, now, job)
-- On this clock, the only one that whoever looks at them has in common.
local time = redis.call('TIME')
local here = time[1] + time[2] / 1000000
redis.call('ZADD', deadlines, here + ttl, job)
if attended_for ~= '' then redis.call('ZADD', attended, here + attended_for, job) end
redis.call('SADD', in_flight, job)
if fingerprint ~= '' then
  redis.call('HSET', idempotency, 'job', job, 'fingerprint', fingerprint)
  redis.call('EXPIRE', idempotency, idempotency_ttl)
end
redis.call('SADD', rq_queues, rq_list)
redis.call('HSET', rq_job, unpack(ARGV, FIRST_RQ_FIELD))
redis.call('RPUSH', rq_list, job)
redis.call('RPUSH', wake, 1)
redis.call('LTRIM', wake, -64, -1)
return {'accepted', event}
