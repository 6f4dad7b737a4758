-- Take one job from its queue or from an owner who is dead, if it still is where we saw it.
-- `expected` is the owner seen, '' for none. Returns 1 or 0.
local jobs, claims, order, deadlines, rq_list, cancels = unpack(KEYS)
local job, expected, owner = unpack(ARGV)

if not redis.call('ZSCORE', jobs, job) then
  redis.call('SREM', cancels, job)  -- a wish that came too late
  return 0
end
if (redis.call('HGET', claims, job) or '') ~= expected then return 0 end
redis.call('ZREM', order, job)
redis.call('LREM', rq_list, 0, job)
redis.call('ZREM', deadlines, job)
redis.call('HSET', claims, job, owner)
return 1
