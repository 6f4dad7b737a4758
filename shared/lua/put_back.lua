-- Let go of a job that is to go on: the front of its queue, older jobs first. Returns 1, or 0 if
-- it is not `owner`'s any more.
local claims, order, rq_list, rq_job, wake = unpack(KEYS)
local job, owner, turn = unpack(ARGV)

if redis.call('HGET', claims, job) ~= owner then return 0 end
redis.call('HDEL', claims, job)
redis.call('ZADD', order, turn, job)
redis.call('LREM', rq_list, 0, job)
redis.call('LPUSH', rq_list, job)
redis.call('HSET', rq_job, 'status', 'queued')
redis.call('RPUSH', wake, 1)
redis.call('LTRIM', wake, -64, -1)
return 1
