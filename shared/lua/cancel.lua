-- Ask for a job's end, and call whoever can bring it about: its owner, or any worker if it waits.
-- Returns 1, or 0 if it has ended.
local jobs, unsaved, claims, cancels, calls = unpack(KEYS)
local job, calls_of_one = unpack(ARGV)

if not redis.call('ZSCORE', jobs, job) then return 0 end
if redis.call('SISMEMBER', unsaved, job) == 1 then return 0 end
if redis.call('SADD', cancels, job) == 1 then
  local owner = redis.call('HGET', claims, job)
  if owner then calls = calls_of_one .. string.match(owner, '^[^/]*') end
  redis.call('RPUSH', calls, job)
  redis.call('EXPIRE', calls, 60)  -- the sweep finds the wish even if nobody hears the call
end
return 1
