-- Let go of jobs that have ended. With its row written a job's log may expire; without, the job is
-- noted as unsaved and its log stays until a sweep has written the row. Returns 1 for each (also if that
-- was done before and only the reply was lost), or 0 if the job is somebody else's, or its log has
-- no end: the server came back without what it had not yet written to disk.
local SHARED, OF_ITS_OWN, FIELDS = 9, 4, 10
local claims, jobs, unsaved, attended, cancels, strikes, pace, webhooks, webhook_tries =
  unpack(KEYS, 1, SHARED)
local verdicts = {}

local function finish(in_flight, log, ended, tokens, job, owner, saved, log_ttl, ended_ttl, model,
                      seconds, key, used, has_webhook)
  local current = redis.call('HGET', claims, job)
  if current ~= owner then
    return (not current and not redis.call('ZSCORE', jobs, job)) and 1 or 0
  end
  local tail = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if not tail or tail[2][6] ~= '1' then return 0 end
  if has_webhook == '1' and redis.call('SISMEMBER', unsaved, job) == 0 then  -- else it was put in before
    redis.call('ZADD', webhooks, redis.call('TIME')[1], job)
    redis.call('HDEL', webhook_tries, job)
  end
  redis.call('HDEL', claims, job)
  redis.call('SREM', in_flight, job)
  redis.call('ZREM', attended, job)
  redis.call('SREM', cancels, job)
  redis.call('HDEL', strikes, job)
  local aside = redis.call('HGET', tokens, job)
  if aside then  -- once: what it had aside becomes what it has used
    redis.call('HINCRBY', tokens, 'total', tonumber(used) - tonumber(aside))
    redis.call('HDEL', tokens, job)
  end
  if saved == '1' then
    redis.call('ZREM', jobs, job)
    redis.call('SREM', unsaved, job)
    redis.call('EXPIRE', log, log_ttl)
    redis.call('SET', ended, key, 'EX', ended_ttl)
  else
    redis.call('SADD', unsaved, job)
  end
  if seconds ~= '' then  -- time in a slot, as a moving average
    local before = tonumber(redis.call('HGET', pace, model) or seconds)
    redis.call('HSET', pace, model, string.format('%.6f', before * 0.9 + tonumber(seconds) * 0.1))
  end
  return 1
end

for number = 1, (#KEYS - SHARED) / OF_ITS_OWN do
  local key = SHARED + (number - 1) * OF_ITS_OWN
  local field = (number - 1) * FIELDS
  local in_flight, log, ended, tokens = unpack(KEYS, key + 1, key + OF_ITS_OWN)
  verdicts[number] = finish(in_flight, log, ended, tokens, unpack(ARGV, field + 1, field + FIELDS))
end
return verdicts
