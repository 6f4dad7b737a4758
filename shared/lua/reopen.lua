-- Put a failed job back: its log goes on behind the failure. Returns 1, or 0 if it has not failed.
local log, jobs, unsaved, order, in_flight, ended, rq_failed, rq_list, rq_job, wake = unpack(KEYS)
local job, event, channel, now, turn = unpack(ARGV)

local tail = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if not tail or tail[2][6] ~= '1' or cjson.decode(tail[2][2]).type ~= 'error' then return 0 end
if redis.call('ZSCORE', jobs, job) then return 0 end  -- its row is yet to be written
redis.call('ZADD', jobs, now, job)
redis.call('ZADD', order, turn, job)
local queued = cjson.decode(event)
local seq = tonumber(string.match(tail[1], '^%d+')) + 1
queued.seq = seq
queued.position = redis.call('ZRANK', order, job)
event = cjson.encode(queued)
redis.call('XADD', log, seq .. '-0', 'event', event, 'writer', 'retry', 'end', '0')
redis.call('PERSIST', log)
redis.call('PUBLISH', channel, event)
redis.call('DEL', ended)
redis.call('SADD', in_flight, job)
redis.call('ZREM', rq_failed, job)
redis.call('LREM', rq_list, 0, job)
redis.call('LPUSH', rq_list, job)
redis.call('HSET', rq_job, 'status', 'queued')
redis.call('PERSIST', rq_job)
redis.call('RPUSH', wake, 1)
redis.call('LTRIM', wake, -64, -1)
return 1
